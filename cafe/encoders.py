"""The frozen encoder: image -> feature, sentence -> feature; knows no dataset and no cache.

Every encoder comes through open_clip and one code path: a built-in architecture with a published
tag, with a local checkpoint or untrained; a folder or a JSON file with a local architecture; and
`nano`, the small CLIP that ships with cafe, which is such a folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cafe import hub
from cafe.devices import Precision, encoder_precision, resolve_device
from cafe.errors import UnknownNameError, WeightsError
from cafe.images import Preprocess
from cafe.vision import import_open_clip

DEFAULT_MODEL, DEFAULT_TAG = "ViT-B-32", "openai"
NANO, NANO_TAG = "nano", "glyphs"
UNTRAINED = "none"
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
_SENTENCES_PER_BATCH = 256
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Source(NamedTuple):
    """Where an encoder's parts come from, before anything is loaded."""

    model: str  # names for people and for the key
    pretrained: str
    identifier: str  # what open_clip calls the architecture
    described: Mapping[str, Any]  # what is known of the weights: QuickGELU, preprocess
    weights: Path | None  # None: untrained


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP model with its preprocess and tokenizer.

    Attributes
    ----------
    model, pretrained : str
        Names of the architecture and of its weights.
    weights_sha256 : str
        SHA-256 of the checkpoint file; of the state dict where the weights are untrained.
    architecture_sha256 : str
        SHA-256 of open_clip's configuration of the architecture.
    precision : {"fp32", "bf16", "fp16"}
        Precision of the weights.
    device : torch.device
    preprocess : Preprocess
    width : int
        Feature width D.
    logit_scale : float
        `exp` of the model's logit scale: 100 for OpenAI's.
    logit_bias : float or None
        The model's logit bias (SigLIP).
    """

    model: str
    pretrained: str
    weights_sha256: str
    architecture_sha256: str
    precision: Precision
    device: torch.device
    preprocess: Preprocess
    width: int
    logit_scale: float
    logit_bias: float | None
    _network: Any = field(repr=False)
    _tokenizer: Any = field(repr=False)

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode a batch of preprocessed images.

        Parameters
        ----------
        pixels : Tensor
            8-bit RGB as `Preprocess.pixels` gives it. (B, S, S, 3) uint8

        Returns
        -------
        Tensor
            Raw features in float32 on the CPU. (B, D)
        """
        config = self.preprocess.config
        mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        x = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        x = ((x - mean) / std).to(_DTYPES[self.precision])  # (B, 3, S, S)
        features: Tensor = self._network.encode_image(x)
        return features.float().cpu()

    @torch.inference_mode()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Encode sentences.

        Parameters
        ----------
        sentences : sequence of str
            Length n.

        Returns
        -------
        Tensor
            Raw features in float32 on the CPU. (n, D)
        """
        parts = []
        for start in range(0, len(sentences), _SENTENCES_PER_BATCH):
            tokens = self._tokenizer(list(sentences[start : start + _SENTENCES_PER_BATCH]))
            parts.append(self._network.encode_text(tokens.to(self.device)).float().cpu())
        return torch.cat(parts)


def load_encoder(
    model: str = DEFAULT_MODEL,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
) -> Encoder:
    """Load a frozen encoder.

    Parameters
    ----------
    model : str
        An open_clip architecture ("ViT-B-32"), "nano", a folder with an `open_clip_config.json`,
        or such a JSON file.
    pretrained : str, optional
        A tag that open_clip knows for the architecture ("openai"), a checkpoint file
        (safetensors, or a PyTorch file that holds nothing but tensors), or "none" for untrained
        weights (seed 0). None takes "openai", or the weights in the folder of a local model.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : str
        "auto", "fp32", "bf16", "fp16"; see `encoder_precision`.

    Returns
    -------
    Encoder

    Raises
    ------
    UnknownNameError
        If open_clip knows no such architecture or tag; the nearest names are suggested.
    WeightsError
        If the weights cannot be fetched (within ten seconds where there is no network), read, or
        do not fit the architecture.
    """
    open_clip = import_open_clip()
    target = resolve_device(device)
    chosen = encoder_precision(precision, target)
    source = _locate(model, pretrained)
    network = hub.fetch(lambda: _build(source, chosen), f"a part of '{model}'")
    tokenizer = hub.fetch(
        lambda: open_clip.get_tokenizer(source.identifier), f"the tokenizer of '{model}'"
    )
    architecture = _architecture(source.identifier)
    bias = getattr(network, "logit_bias", None)
    return Encoder(
        model=source.model,
        pretrained=source.pretrained,
        weights_sha256=_state_digest(network)
        if source.weights is None
        else _digest(source.weights),
        architecture_sha256=hashlib.sha256(json.dumps(architecture).encode()).hexdigest(),
        precision=chosen,
        device=target,
        preprocess=Preprocess(network.visual.preprocess_cfg),
        width=int(architecture["embed_dim"]),
        logit_scale=float(network.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        _network=network.to(target).eval().requires_grad_(False),
        _tokenizer=tokenizer,
    )


def default_pretrained(model: str) -> str:
    """The weights that a model gets when none are named."""
    if model == NANO:
        return NANO_TAG
    return "local" if _is_local(model) else DEFAULT_TAG


def encoder_names(model: str, pretrained: str | None) -> tuple[str, str]:
    """Names of an encoder as they appear in a cache's file name, without loading anything."""
    name = Path(model).stem if _is_local(model) and model != NANO else model
    tag = pretrained or default_pretrained(model)
    return name.replace("/", "-"), Path(tag).stem if Path(tag).is_file() else tag


def _nano_folder() -> Path:
    spec = importlib.util.find_spec("cafe.assets.nano")
    if spec is None or spec.origin is None:
        raise WeightsError("cafe's own encoder 'nano' is not installed; reinstall cafe.")
    return Path(spec.origin).parent


def _is_local(model: str) -> bool:
    return model == NANO or Path(model).is_dir() or model.endswith(".json")


def _locate(model: str, pretrained: str | None) -> _Source:
    if _is_local(model):
        return _locate_local(model, pretrained)
    open_clip = import_open_clip()
    if model not in open_clip.list_models():
        known = [*open_clip.list_models(), NANO]
        raise UnknownNameError("model", model, known, "Or give a folder or a JSON file.")
    tag = pretrained or DEFAULT_TAG
    if tag == UNTRAINED:
        return _Source(model, UNTRAINED, model, {}, None)
    if Path(tag).is_file():
        return _Source(model, Path(tag).stem, model, _openai_file(model, Path(tag)), Path(tag))
    described = open_clip.get_pretrained_cfg(model, tag)
    if not described:
        known = [*open_clip.list_pretrained_tags_by_model(model), UNTRAINED]
        raise UnknownNameError(f"weights of {model}", tag, known, "Or give a checkpoint file.")
    return _Source(model, tag, model, described, hub.weights(described, f"{model} '{tag}'"))


def _locate_local(model: str, pretrained: str | None) -> _Source:
    if model.endswith(".json"):
        folder = Path(model).parent
        import_open_clip().add_model_config(Path(model))
        identifier = Path(model).stem
    else:
        folder = _nano_folder() if model == NANO else Path(model)
        identifier = f"local-dir:{folder}"
    _architecture(identifier)  # refuses a configuration that describes no model
    name, tag = encoder_names(model, pretrained)
    if pretrained == UNTRAINED:
        return _Source(name, tag, identifier, {}, None)
    own = pretrained is None or (model == NANO and pretrained == NANO_TAG)
    weights = folder / WEIGHTS_FILE if own else Path(str(pretrained))
    if not weights.is_file():
        raise WeightsError(f"no weights at '{weights}' for model '{name}'; give --pretrained FILE.")
    return _Source(name, tag, identifier, {}, weights)


def _architecture(identifier: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture, checked."""
    try:
        architecture = import_open_clip().get_model_config(identifier)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the configuration of '{identifier}' cannot be read: {error}"
        ) from error
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(architecture, dict) or not all(part in architecture for part in parts):
        raise WeightsError(
            f"'{identifier}' describes no model of open_clip; its {CONFIG_FILE} needs a "
            f"'model_cfg' with {', '.join(parts)}."
        )
    return architecture


def _openai_file(model: str, file: Path) -> Mapping[str, Any]:
    """OpenAI's own files are known by their SHA-256, so that a local copy gets QuickGELU too."""
    described: dict[str, Any] = import_open_clip().get_pretrained_cfg(model, DEFAULT_TAG)
    return described if described and _digest(file) in described.get("url", "") else {}


def _build(source: _Source, precision: Precision) -> Any:
    open_clip = import_open_clip()
    known = {part: source.described[part] for part in _PREPROCESS if part in source.described}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # untrained weights are the same every time
            network = open_clip.create_model(
                source.identifier,
                precision=precision,
                load_weights=False,
                force_quick_gelu=bool(source.described.get("quick_gelu")),
                force_preprocess_cfg=known,
                pretrained_image=False,
                pretrained_text=False,
            )
    except (TypeError, KeyError, AttributeError, AssertionError) as error:
        raise WeightsError(f"open_clip cannot build model '{source.model}': {error}") from error
    if source.weights is not None:
        _load(network, source.model, source.weights)
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns on the root logger that weights are not loaded yet; they come right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _load(network: Any, model: str, weights: Path) -> None:
    try:
        import_open_clip().load_checkpoint(network, str(weights), weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"'{weights}' is no checkpoint of {model} ({reason}); give a safetensors file, or a "
            "PyTorch file of tensors, made for this architecture."
        ) from error


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _state_digest(network: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
