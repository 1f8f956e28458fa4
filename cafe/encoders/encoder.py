"""The frozen encoder: image -> feature, sentence -> feature; knows no dataset and no cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import cafe.encoders.hub as hub
from cafe.devices import Precision, encoder_precision, resolve_device
from cafe.encoders.decoding import DECODING, Decode
from cafe.encoders.fast_blocks import quicken
from cafe.encoders.network import build_network, digest_of_weights
from cafe.encoders.preprocess import Preprocess
from cafe.encoders.timm_models import load_timm_model
from cafe.encoders.tokenizer import load_tokenizer, places_cut
from cafe.encoders.weights import DEFAULT_MODEL, TIMM, architecture, locate
from cafe.errors import InputError

CLIP_SCALE = 100.0
"""OpenAI's logit scale, for cosines of an encoder that has none of its own."""

_SENTENCES_PER_BATCH = 256
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP model with its preprocess and tokenizer, or an encoder of images alone.

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

    @property
    def has_text(self) -> bool:
        """Whether it has a text tower."""
        return self._tokenizer is not None

    @property
    def tokens(self) -> int | None:
        """Tokens per image of a vision transformer of open_clip's own; None of other towers."""
        places = getattr(self._network.visual, "positional_embedding", None)  # (tokens, width)
        return None if places is None else len(places)

    def key(self) -> dict[str, Any]:
        """What the encoder contributes to the key of its caches, as JSON values."""
        config = sorted(self.preprocess.config.items())
        return {
            "architecture_sha256": self.architecture_sha256,
            "decoding": DECODING[self.preprocess.decode],
            "model": self.model,
            "precision": self.precision,
            "preprocess": {k: list(v) if isinstance(v, tuple) else v for k, v in config},
            "pretrained": self.pretrained,
            "weights_sha256": self.weights_sha256,
        }

    def decoding(self, decode: Decode) -> Encoder:
        """The encoder for image files that are decoded in this way, "exact" or "scaled"."""
        if decode == self.preprocess.decode:
            return self
        return replace(self, preprocess=self.preprocess.decoding(decode))

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode a batch of preprocessed images.

        Parameters
        ----------
        pixels : Tensor
            8-bit RGB from `Preprocess.pixels`. (B, S, S, 3) uint8

        Returns
        -------
        Tensor
            Raw features in float32 on the CPU. (B, D)
        """
        features: Tensor = self._network.encode_image(self.standardized(pixels))
        return features.float().cpu()

    def standardized(self, pixels: Tensor) -> Tensor:
        """Pixels (B, S, S, 3) uint8 as the image tower takes them, on its device. (B, 3, S, S)"""
        # bytes go to the device, a quarter of what float32 pixels would take
        rows = pixels.to(self.device, non_blocking=True).flatten(2)  # (B, S, S 3)
        mean, std = (
            torch.tensor(self.preprocess.config[name], device=self.device).repeat(pixels.shape[2])
            for name in ("mean", "std")
        )
        out = torch.empty(rows.shape, dtype=_DTYPES[self.precision], device=self.device)
        # on a CPU an image at a time: its floats stay in the core's cache, three times faster
        size = 1 if self.device.type == "cpu" else max(1, len(rows))
        for some, result in zip(torch.split(rows, size), torch.split(out, size), strict=True):
            result.copy_(some.float().div_(255).sub_(mean).div_(std))
        return out.view(pixels.shape).permute(0, 3, 1, 2)

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
        batches = torch.split(self.token_ids(sentences).to(self.device), _SENTENCES_PER_BATCH)
        return torch.cat([self._network.encode_text(ids).float().cpu() for ids in batches])

    def token_ids(self, sentences: Sequence[str]) -> Tensor:
        """Token ids of sentences, as the text tower takes them. (n, L)"""
        if not self.has_text:
            if sentences:
                raise InputError(f"{self.model} has no text tower; take an encoder that has one.")
            return torch.zeros(0, 0, dtype=torch.long)
        token_ids: Tensor = self._tokenizer(list(sentences))
        return token_ids

    def places_cut(self, sentences: Sequence[str], token_ids: Tensor) -> list[int]:
        """Which of the sentences with these token ids are longer than the text tower reads."""
        return places_cut(self._tokenizer, sentences, token_ids)


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
        An open_clip architecture ("ViT-B-32"), "nano", an image-only model of timm
        ("timm:NAME"), a folder with an `open_clip_config.json`, or such a JSON file.
    pretrained : str, optional
        A tag that open_clip knows for the architecture ("openai"), a checkpoint file
        (safetensors, or a PyTorch file that holds nothing but tensors), or "none" for untrained
        weights (seed 0). None takes "openai" where there is one, else the one tag there is, or the
        weights in the folder of a local model.
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
    target = resolve_device(device)
    chosen = encoder_precision(precision, target)
    if model.startswith(TIMM):
        return _image_encoder(model, pretrained, target, chosen)
    source = locate(model, pretrained)
    tokenizer = load_tokenizer(model, source.identifier)
    network = hub.fetch(lambda: build_network(source, chosen), f"a part of '{model}'")
    config = architecture(source.identifier)
    bias = getattr(network, "logit_bias", None)
    weights_sha256 = digest_of_weights(source.weights, network)  # of the network as it was made
    preprocess = Preprocess(network.visual.preprocess_cfg)
    network = network.to(target).eval().requires_grad_(False)
    if target.type == "cpu" and chosen == "bf16":
        quicken(network, preprocess.size)
    return Encoder(
        model=source.model,
        pretrained=source.pretrained,
        weights_sha256=weights_sha256,
        architecture_sha256=hashlib.sha256(json.dumps(config).encode()).hexdigest(),
        precision=chosen,
        device=target,
        preprocess=preprocess,
        width=int(config["embed_dim"]),
        logit_scale=float(network.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        _network=network,
        _tokenizer=tokenizer,
    )


def _image_encoder(
    model: str, pretrained: str | None, device: torch.device, precision: Precision
) -> Encoder:
    """A model of timm as an encoder without a text tower."""
    made = load_timm_model(model, pretrained)
    return Encoder(
        model=made.model,
        pretrained=made.pretrained,
        weights_sha256=digest_of_weights(made.weights, made.network),
        architecture_sha256=made.architecture_sha256,
        precision=precision,
        device=device,
        preprocess=Preprocess(made.preprocess),
        width=made.width,
        logit_scale=CLIP_SCALE,
        logit_bias=None,
        _network=made.network.to(device, _DTYPES[precision]).eval().requires_grad_(False),
        _tokenizer=None,
    )
