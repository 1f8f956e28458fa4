"""The forward pass of an encoder's towers against the machine's matrix products, and what may help.

    python benchmarks/forward.py [--model ViT-B-32] [--batch 32] [--precision bf16]

Times are of one thread's own clock, so other work on the machine disturbs them less. A way's
share is its floating-point operations, over the rate of square matrix products measured in the
same run, over its time. `products` are the tower's own matrix products alone: no way that keeps
the tower's shapes can be faster. cafe uses `as it is`, with the parts of `fast_blocks.py` in bf16;
the others were tried on open_clip's own parts. Sentences are of the text tower, 32 at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from cafe.devices import product_rate
from cafe.encoders import encoder as encoder_module
from cafe.encoders.encoder import Encoder, load_encoder

TRIES = 6
CPU = torch.device("cpu")


class FlashAttention(nn.Module):
    """The same attention: one product for queries, keys and values, then torch's fused one."""

    batch_first = True

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inner, self.out, self.heads = attention, attention.out_proj, attention.num_heads

    def forward(self, x: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor]:
        """Attention of x (B, L, D) to itself."""
        count, length, width = x.shape
        weight, bias = self.inner.in_proj_weight, self.inner.in_proj_bias
        parts = nn.functional.linear(x, weight, bias).view(count, length, 3, self.heads, -1)
        answer = scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))  # (B, heads, L, .)
        return (self.out(answer.transpose(1, 2).reshape(count, length, width)),)


def seconds(work: Callable[[], Any], tries: int = TRIES) -> float:
    """Processor time of one call, the best of a few after one that warms up."""
    work()
    best = float("inf")
    for _ in range(tries):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def operations(tower: nn.Module, x: Tensor) -> float:
    """Floating-point operations of the tower's products on x."""
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see inside it
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(x[:1])
    torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops()) * len(x)


def product_seconds(tower: nn.Module, x: Tensor) -> float:
    """Time of the tower's products alone: its layers' weights with as many rows as they see."""
    spent = 0.0

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        nonlocal spent
        if isinstance(layer, nn.MultiheadAttention):
            rows = inputs[0].flatten(0, 1)
            spent += seconds(lambda: nn.functional.linear(rows, layer.in_proj_weight))
            spent += seconds(lambda: nn.functional.linear(rows, layer.out_proj.weight))
        else:
            plain = inputs[0]
            spent += seconds(lambda: type(layer).forward(layer, plain))

    kinds = (nn.MultiheadAttention, nn.Conv2d, nn.Linear)
    layers = [layer for layer in tower.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(measure) for layer in layers]
    with torch.inference_mode():
        tower(x)
    for hook in hooks:
        hook.remove()
    return spent


def with_flash_attention(tower: nn.Module) -> nn.Module:
    """Replace the tower's attention in place."""
    for block in tower.transformer.resblocks:  # type: ignore[union-attr]
        block.attn = FlashAttention(block.attn)
    return tower


def compiled(tower: nn.Module, x: Tensor, *, freezing: bool) -> tuple[Callable[..., Tensor], float]:
    """The tower by torch.compile, and the seconds of its first call."""
    import torch._inductor.config as inductor

    inductor.freezing = freezing
    torch._dynamo.reset()
    call: Callable[..., Tensor] = torch.compile(tower)
    start = time.perf_counter()
    call(x)
    return call, time.perf_counter() - start


def load(model: str, precision: str, *, fast: bool) -> Encoder:
    """An untrained encoder, as cafe has it or with open_clip's own parts."""
    if fast:
        return load_encoder(model, "none", precision=precision)
    with patch.object(encoder_module, "quicken"):
        return load_encoder(model, "none", precision=precision)


def measure(model: str, precision: str, batch: int) -> list[dict[str, Any]]:
    """A row for each way."""
    encoder, plain = (load(model, precision, fast=fast) for fast in (True, False))
    height, width = encoder.preprocess.size
    pixels = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
    x, tower, own = encoder.standardized(pixels), encoder._network.visual, plain._network.visual
    rate = max(product_rate(CPU, x.dtype, size, clock=time.thread_time) for size in (512, 1024))
    work = operations(own, x)
    rows: list[dict[str, Any]] = []

    def add(way: str, spent: float, first: float | None = None, cosine: float = 1.0) -> None:
        row = {
            "way": way,
            "images_per_second": round(batch / spent, 1),
            "share_of_matmul_rate": round(work / rate / spent, 3),
            "first_call_seconds": None if first is None else round(first, 1),
            "least_cosine": round(cosine, 5),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)

    with torch.inference_mode():
        expected = own(x).float()

        def worst(call: Callable[..., Tensor]) -> float:
            return float(cosine_similarity(call(x).float(), expected).min())

        turns = [(seconds(lambda: own(x), 2), seconds(lambda: tower(x), 2)) for _ in range(TRIES)]
        before, now = map(min, zip(*turns, strict=True))
        add("open_clip's own parts", before)
        add("as it is", now, cosine=worst(tower))
        add("as it is, from 8-bit pixels", seconds(lambda: encoder.encode_pixels(pixels)))
        for size in (8, 16, 64):
            some = torch.cat([x] * (size // batch + 1))[:size]
            spent = seconds(lambda some=some: tower(some))  # type: ignore[misc]
            add(f"as it is, batches of {size}", spent * batch / size)
        add("products alone", product_seconds(own, x))
        with_flash_attention(own)
        add("own parts, fused attention", seconds(lambda: own(x)), cosine=worst(own))
    with torch.no_grad():  # freezing is not for inference mode
        for freezing in (False, True):
            call, first = compiled(own, x, freezing=freezing)
            way = "own parts, fused attention, compiled" + (", frozen" if freezing else "")
            add(way, seconds(lambda call=call: call(x)), first, worst(call))  # type: ignore[misc]
    return rows


def sentences(model: str, precision: str) -> dict[str, float]:
    """Sentences a second of a core, as it is and with open_clip's own parts."""
    texts = [f"a photo of class number {number}." for number in range(32)]
    fast, own = (load(model, precision, fast=fast) for fast in (True, False))
    spent = [seconds(lambda e=e: e.encode_text(texts), 3) for e in (fast, own)]  # type: ignore[misc]
    return {
        name: round(len(texts) / value, 1)
        for name, value in zip(("as it is", "open_clip's own parts"), spent, strict=True)
    }


def main() -> None:
    """Measure, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "model": args.model,
        "precision": args.precision,
        "batch": args.batch,
        "ways": measure(args.model, args.precision, args.batch),
        "sentences_per_second": sentences(args.model, args.precision),
        "machine": {"cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()},
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    name = f"forward_{args.model}.{args.precision}.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
