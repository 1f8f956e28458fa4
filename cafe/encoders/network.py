"""Networks as open_clip builds them, with their weights; knows no image and no sentence."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cafe.compat import import_open_clip
from cafe.devices import Precision
from cafe.encoders.weights import PREPROCESS, WeightsSource
from cafe.errors import WeightsError


def build_network(source: WeightsSource, precision: Precision) -> Any:
    """open_clip's network with its weights, in a precision, on the CPU.

    Raises
    ------
    WeightsError
        If its configuration cannot be built, or the checkpoint is none of it.
    """
    open_clip = import_open_clip()
    known = {part: source.described[part] for part in PREPROCESS if part in source.described}
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
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"open_clip cannot build model '{source.model}' ({reason}); correct its configuration."
        ) from error
    _widen_scalars(network)
    if source.weights is not None:
        _load(network, source)
    return network


def _widen_scalars(network: Any) -> None:
    """Logit scale and bias in float32, as the checkpoint has them.

    open_clip casts them with a timm tower, and in bfloat16 SigLIP's scale is off by up to 1.6 %.
    """
    for name in ("logit_scale", "logit_bias"):
        value = getattr(network, name, None)
        if value is not None:
            value.data = value.data.float()


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns on the root logger that weights are not loaded yet; they come right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _load(network: Any, source: WeightsSource) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that OpenAI's file is a TorchScript archive
            # such an archive may hold code: it is opened only where it is known to be OpenAI's
            weights_only = not source.is_openai_file
            import_open_clip().load_checkpoint(
                network, str(source.weights), weights_only=weights_only
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"'{source.weights}' is no checkpoint of {source.model} ({reason}); give a safetensors "
            "file, or a PyTorch file of tensors, made for this architecture."
        ) from error


def state_digest(network: Any) -> str:
    """SHA-256 of all weights, for those that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
