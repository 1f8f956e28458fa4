"""Encoders of images alone: timm's models (DINOv2, DINOv3, ConvNeXt, ...), `timm:NAME[.TAG]`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import cafe.encoders.hub as hub
from cafe.compat import import_timm, quiet_libraries
from cafe.encoders.checkpoint import read_tensors
from cafe.encoders.timm_steps import MODES
from cafe.encoders.weights import TIMM, UNTRAINED
from cafe.errors import UnknownNameError, WeightsError, raise_as
from cafe.store.key import digest

_FILE = "model.safetensors"  # of every model that timm's authors publish


class ImageTower(nn.Module):
    """A model of timm without its classifier, as a CLIP model whose text tower is absent."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.visual = trunk

    def encode_image(self, x: Tensor) -> Tensor:
        """Pooled features of normalised images (B, 3, S, S). (B, D)"""
        features: Tensor = self.visual(x)
        return features


class TimmModel(NamedTuple):
    """A model of timm with what an encoder says of it.

    Attributes
    ----------
    model, pretrained : str
        `timm:NAME`, and the tag of its weights, the stem of their file, or "none".
    network : ImageTower
    weights : Path or None
        The checkpoint; None for untrained weights.
    preprocess : dict
        timm's own, in the words of `Preprocess`.
    width : int
        Feature width D.
    architecture_sha256 : str
        Of the name and the shapes of all weights.
    """

    model: str
    pretrained: str
    network: ImageTower
    weights: Path | None
    preprocess: dict[str, Any]
    width: int
    architecture_sha256: str


def load_timm_model(model: str, pretrained: str | None = None) -> TimmModel:
    """Build a model of timm with its weights, on the CPU; no code in them is run.

    Parameters
    ----------
    model : str
        `timm:NAME` or `timm:NAME.TAG`.
    pretrained : str, optional
        A tag of timm, a checkpoint file, or "none" for untrained weights (seed 0). None takes that
        of the name, else the model's usual one.

    Raises
    ------
    UnknownNameError
        If timm knows no such model or tag; the nearest names are suggested.
    WeightsError
        If the weights cannot be fetched or read, or do not fit the model.
    """
    timm = import_timm()
    name, _, own = model.removeprefix(TIMM).partition(".")
    if name not in timm.list_models():
        known = [f"{TIMM}{other}" for other in timm.list_models()]
        raise UnknownNameError("model", f"{TIMM}{name}", known, "timm.list_models() has all.")
    tag = pretrained or own or str(getattr(timm.get_pretrained_cfg(name), "tag", "") or UNTRAINED)
    weights = None if tag == UNTRAINED else _find_weights(timm, name, tag)
    is_file = weights is not None and Path(tag).is_file()
    full = name if weights is None or is_file else f"{name}.{tag}"
    trunk = _build(timm, full, weights)
    config = timm.data.resolve_model_data_config(trunk)
    shapes = {key: list(value.shape) for key, value in trunk.state_dict().items()}
    with torch.inference_mode():
        width = int(trunk.eval()(torch.zeros(1, *config["input_size"])).shape[-1])
    return TimmModel(
        f"{TIMM}{name}",
        Path(tag).stem if is_file else tag,
        ImageTower(trunk),
        weights,
        _preprocess(config),
        width,
        digest({"timm": name, "shapes": shapes}),
    )


def _find_weights(timm: Any, name: str, tag: str) -> Path:
    if Path(tag).is_file():
        return Path(tag)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag not in tags:
        advice = "Or name a checkpoint file."
        raise UnknownNameError(f"weights of {TIMM}{name}", tag, [*tags, UNTRAINED], advice)
    published = timm.get_pretrained_cfg(f"{name}.{tag}")
    return hub.fetch(lambda: _download(published), f"{TIMM}{name} '{tag}'")


def _download(published: Any) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(published.hf_hub_id, published.hf_hub_filename or _FILE))


def _build(timm: Any, name: str, weights: Path | None) -> Any:
    """The network without its classifier, whose features are pooled."""
    more: dict[str, Any] = {}
    problem = f"'{weights}' is no checkpoint of {TIMM}{name}" if weights else f"timm's '{name}'"
    advice = "give a safetensors file, or a PyTorch file of tensors, made for this architecture"
    with (
        raise_as(WeightsError, problem, advice, Exception),
        quiet_libraries(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)  # so that untrained weights are the same every time
        if weights is not None:
            # timm renames them to fit, and leaves the classifier out
            more = {"pretrained_cfg_overlay": {"state_dict": dict(read_tensors(weights))}}
        with _whole():
            return timm.create_model(name, pretrained=weights is not None, num_classes=0, **more)


@contextmanager
def _whole() -> Iterator[None]:
    """Refuse a checkpoint that lacks weights: without its classifier timm takes any."""
    module: Any = nn.Module
    before = module.load_state_dict

    def load(self: nn.Module, state: Any, **more: Any) -> Any:
        result = before(self, state, **{**more, "strict": False})
        if result.missing_keys:
            raise TypeError(f"it has no '{result.missing_keys[0]}'")
        return result

    module.load_state_dict = load
    try:
        yield
    finally:
        module.load_state_dict = before


def _preprocess(config: dict[str, Any]) -> dict[str, Any]:
    """Timm's preparation of an image in the words of open_clip's, and the share that is kept."""
    return {
        "size": tuple(config["input_size"][1:]),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": config["interpolation"],
        "resize_mode": MODES[config["crop_mode"]],
        "crop_pct": float(config["crop_pct"]),
    }
