"""open_clip's networks with their weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from cafe.compat import import_open_clip, quiet_libraries
from cafe.devices import Precision
from cafe.encoders.checkpoint import load_weights
from cafe.encoders.weights import PREPROCESS, WeightsSource
from cafe.errors import WeightsError, raise_as
from cafe.store.files import digest_of_file


def build_network(source: WeightsSource, precision: Precision) -> Any:
    """Build a network with its weights on the CPU.

    Raises
    ------
    WeightsError
        If open_clip cannot build the configuration, or the checkpoint does not fit it.
    """
    open_clip = import_open_clip()
    published = source.published
    preprocess = {part: published[part] for part in PREPROCESS if part in published}
    refusal = raise_as(
        WeightsError,
        f"open_clip cannot build model '{source.model}'",
        "correct its configuration",
        (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError),
    )
    # open_clip warns that no weights are loaded; `load_weights` does that right after
    with refusal, quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that untrained weights are the same every time
        network = open_clip.create_model(
            source.identifier,
            precision=precision,
            load_weights=False,
            force_quick_gelu=bool(published.get("quick_gelu")),
            force_preprocess_cfg=preprocess,
            pretrained_image=False,
            pretrained_text=False,
        )
    _widen_scalars(network)
    if source.weights is not None:
        load_weights(network, source, source.weights)
    return network


def _widen_scalars(network: Any) -> None:
    """Keep logit scale and bias in float32, as in the checkpoint."""
    # open_clip casts them with a timm tower, and in bfloat16 SigLIP's scale is off by up to 1.6 %
    for name in ("logit_scale", "logit_bias"):
        value = getattr(network, name, None)
        if value is not None:
            value.data = value.data.float()


def digest_of_weights(file: Path | None, network: Any) -> str:
    """SHA-256 of the file of a network's weights; of the weights where they come from none."""
    if file is not None:
        return digest_of_file(file)
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
