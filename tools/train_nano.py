"""Train `nano`, the tiny CLIP that ships with cafe, on rendered type.

Example:
    python tools/train_nano.py --fonts /usr/share/fonts node_modules/@fontsource

The training images are single characters (0-9, A-Z, a-z) drawn with freely licensed fonts; the
captions say which character it is and how it looks. No handwritten image is among them. Fonts that
imitate handwriting are, and they are fonts.

Get the fonts with `apt-get install` and `npm install`: `--list-fonts` prints both commands. Nearly
all are under the SIL Open Font Licence; a few are Apache-2.0, MIT, UFL or GPL with the font
exception.

Three steps:

1. `nano/fonts.py`: every font draws every character once, as a 64 x 64 mask.
2. `nano/augment.py` and `nano/captions.py`: a batch of masks becomes images (warped, thickened,
   blurred, coarse, noisy) with the facts that are true of each, and a caption that states some.
3. `train`: CLIP's symmetric cross-entropy, where a caption counts as right for *every* image in
   the batch that it is true of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nano.augment import Augment
from nano.captions import describe, truth_table
from nano.fonts import DEBIAN_PACKAGES, FONTSOURCE, Pool, draw_pool, find_fonts
from safetensors.torch import save_file
from torch import Tensor

from cafe.compat import import_open_clip

MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""CLIP's own; `preprocess_cfg` in the configuration names the same."""


@dataclass(frozen=True)
class Batch:
    """Images with one caption each, and the table of which caption is true of which image.

    Parameters
    ----------
    images
        Normalised RGB, shape (B, 3, size, size).
    tokens
        Shape (B, context).
    truth
        Float 0 or 1, images x captions, shape (B, B).
    """

    images: Tensor
    tokens: Tensor
    truth: Tensor


def batches(
    pool: Pool, config: dict[str, Any], tokenizer: Any, size: int, seed: int
) -> Iterator[Batch]:
    """Yield batches of `size` for ever."""
    rng = np.random.default_rng(seed)
    augment = Augment(config["vision_cfg"]["image_size"], torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(value)[:, None, None] for value in MEAN_STD)
    cumulative = np.cumsum(pool.weights)
    while True:
        rows = np.searchsorted(cumulative, rng.random(size) * cumulative[-1])
        characters = pool.characters[rows]
        grey, facts = augment(
            torch.from_numpy(pool.masks[rows]).float() / 255, torch.from_numpy(pool.facts[rows])
        )
        captions = [
            describe(rng, int(c), f) for c, f in zip(characters, facts.numpy(), strict=True)
        ]
        truth = truth_table(
            torch.from_numpy(characters),
            facts,
            torch.tensor([cased for _, cased, _ in captions]),
            torch.from_numpy(np.stack([stated for _, _, stated in captions])),
        )
        images = ((grey - mean) / std).contiguous(memory_format=torch.channels_last)
        yield Batch(images, tokenizer([text for text, _, _ in captions]), truth)


def clip_loss(image: Tensor, text: Tensor, scale: Tensor, truth: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy with several right answers.

    With a diagonal `truth` this is the loss of Radford et al. 2021.

    Parameters
    ----------
    image, text
        Normalised features, shape (B, D).
    scale
        The learned logit scale, a scalar (after exp).
    truth
        Float 0 or 1, images x captions, shape (B, B).
    """
    logits = scale * image @ text.T  # (B, B)
    per_image = F.cross_entropy(logits, truth / truth.sum(1, keepdim=True))
    per_text = F.cross_entropy(logits.T, truth.T / truth.T.sum(1, keepdim=True))
    return (per_image + per_text) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return a linear warm-up over 5 % of the steps, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only; a token that never occurs must keep its vector."""
    named = list(model.named_parameters())
    matrix = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    return [{"params": matrix, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def train(
    model: Any,
    stream: Iterator[Batch],
    steps: int,
    peak: float,
    decay: float,
    progress: Callable[[int, float], None],
) -> None:
    """Train in place; `progress` gets the step and its loss."""
    groups = parameter_groups(model, decay)
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    model.train()
    model.visual.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        batch = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(batch.images, normalize=False)
        image = F.normalize(image.float(), dim=1)  # (B, D)
        text = model.encode_text(batch.tokens, normalize=True)  # (B, D)
        loss = clip_loss(image, text, model.logit_scale.exp(), batch.truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        progress(step, loss.item())
    model.eval()


def save(model: torch.nn.Module, path: Path) -> str:
    """Write the weights as float16 safetensors and return the file's SHA-256."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    temporary = path.with_suffix(".tmp")
    save_file(state, str(temporary), metadata={"format": "pt"})
    temporary.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def report(every: int, steps: int) -> Callable[[int, float], None]:
    """Return a progress callable that prints a line now and then."""
    start = time.perf_counter()

    def line(step: int, loss: float) -> None:
        if step % every == 0 or step == steps - 1:
            print(
                f"step {step:5d}  loss {loss:.4f}  {time.perf_counter() - start:.0f} s", flush=True
            )

    return line


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fonts", type=Path, nargs="+", metavar="DIR", help="font folders")
    parser.add_argument("--list-fonts", action="store_true", help="print how to get the fonts")
    parser.add_argument(
        "--config", type=Path, default=Path("cafe/encoders/nano/open_clip_config.json")
    )
    parser.add_argument("--out", type=Path, default=Path("cafe/encoders/nano"))
    parser.add_argument("--steps", type=int, default=550)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of matrices")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.fonts and not options.list_fonts:
        parser.error("--fonts is needed: the folders to look for fonts in (see --list-fonts)")
    return options


def main() -> None:
    """Draw, train, save."""
    options = arguments()
    if options.list_fonts:
        print("apt-get install", *DEBIAN_PACKAGES)
        print("npm install", *(f"@fontsource/{name}" for name in FONTSOURCE))
        return
    open_clip = import_open_clip()
    config = json.loads(options.config.read_text())["model_cfg"]
    pool = draw_pool(find_fonts(options.fonts))
    print(
        f"{pool.fonts} fonts, {len(pool.masks)} characters, masks {pool.digest()[:16]}", flush=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)  # open_clip draws its initial weights globally
        model = open_clip.CLIP(**config)
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    stream = batches(pool, config, tokenizer, options.batch, options.seed)
    train(model, stream, options.steps, options.lr, options.decay, report(100, options.steps))
    options.out.mkdir(parents=True, exist_ok=True)
    digest = save(model, options.out / "open_clip_model.safetensors")
    print(f"SHA-256 {digest}")


if __name__ == "__main__":
    main()
