"""The spatial map of an image: one token per position, in the space of the encoder's features.

An image tower pools its positions into one feature. A position put through the same last layers by
itself is a token in that feature's space (dense CLIP: MaskCLIP, Zhou et al. 2022, arXiv 2112.01071,
section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, linear

from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.encoders.encoder import Encoder

POOL = 7
"""Side of the grid to which maps are averaged: that of RN50 and ViT-B/32 at 224 pixels."""


class TowerOutput(NamedTuple):
    """An image tower's output for a batch of images.

    Attributes
    ----------
    features : Tensor
        Raw features, the same as without a map. (B, D)
    spatial : Tensor
        Projected tokens of the pooled grid, row by row. (B, T, D)
    """

    features: Tensor
    spatial: Tensor


@torch.inference_mode()
def encode_spatial(encoder: Encoder, pixels: Tensor, pool: int) -> TowerOutput:
    """Encode a batch of preprocessed images with their spatial maps.

    Parameters
    ----------
    encoder : Encoder
    pixels : Tensor
        As `Encoder.encode_pixels` takes them. (B, S, S, 3) uint8
    pool : int
        Largest side of the grid; a tower's smaller grid stays as it is.

    Returns
    -------
    TowerOutput
        On the CPU, features in float32 and maps in float16, as caches hold them.

    Raises
    ------
    InputError
        If cafe knows no map of this kind of tower.
    """
    output = encode_with_map(encoder._network, encoder.standardized(pixels), pool)
    return TowerOutput(output.features.float().cpu(), output.spatial.half().cpu())


@torch.inference_mode()
def grid_of(encoder: Encoder, pool: int) -> tuple[int, int]:
    """Height and width of an encoder's pooled grid.

    Raises
    ------
    InputError
        If cafe knows no map of this kind of tower, or `pool` is below 1.
    """
    if pool < 1:
        raise InputError(f"pool must be at least 1; got {pool}.")
    height, width = encoder.preprocess.size
    black = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    return _pooled(_grid(encoder._network, encoder.standardized(black))[1], pool)


def encode_with_map(network: Any, x: Tensor, pool: int) -> TowerOutput:
    """Features and maps of normalised images (B, 3, S, S), on their device."""
    features, grid = _grid(network, x)  # (B, D), (B, W, h, w)
    project = _PROJECTIONS[type(network.visual).__name__]
    tokens = project(network.visual, grid.flatten(2).mT).float()  # (B, h w, D)
    planes = tokens.mT.reshape(tokens.shape[0], -1, *grid.shape[2:])  # (B, D, h, w)
    return TowerOutput(features, adaptive_avg_pool2d(planes, _pooled(grid, pool)).flatten(2).mT)


class SpatialTower(nn.Module):
    """Normalised images (N, 3, S, S) to the input of a spatial head (N, 1 + T, D)."""

    def __init__(self, network: Any, pool: int) -> None:
        super().__init__()
        self.visual, self._pool = network.visual, pool

    def forward(self, x: Tensor) -> Tensor:
        """Each image's feature, followed by its map. (N, 1 + T, D)"""
        features, spatial = encode_with_map(self, x, self._pool)
        return torch.cat([features[:, None], spatial], dim=1)


def _pooled(grid: Tensor, pool: int) -> tuple[int, int]:
    return min(pool, grid.shape[2]), min(pool, grid.shape[3])


def _grid(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, D), and the last block's normalised output at every position (B, W, h, w)."""
    visual = network.visual
    kind = type(visual).__name__
    pooled_otherwise = getattr(visual, "attn_pool", None) is not None  # CoCa's queries
    unknown_trunk = kind == "TimmModel" and getattr(visual.trunk, "attn_pool", None) is None
    of_timm = kind == "VisionTransformer" and not hasattr(visual, "proj")  # another of that name
    if kind not in _PROJECTIONS or pooled_otherwise or unknown_trunk or of_timm:
        raise InputError(
            f"cafe knows no spatial map of this encoder's {kind}; use a ViT or a ResNet of "
            "OpenAI's kind, or a SigLIP."
        )
    if not hasattr(visual, "forward_intermediates"):
        raise InputError("spatial maps need open_clip_torch 2.30 or newer; update it.")
    output = visual.forward_intermediates(
        x, indices=1, normalize_intermediates=True, output_fmt="NCHW"
    )
    return output["image_features"], output["image_intermediates"][-1]


def _vit(visual: Any, tokens: Tensor) -> Tensor:
    """The projection of the class token, applied to every token. (B, h w, D)"""
    projected: Tensor = tokens @ visual.proj
    return projected


def _resnet(visual: Any, tokens: Tensor) -> Tensor:
    """Value and output projection of the attention pool, for every position. (B, h w, D)

    The pool's feature is an attention-weighted mean of these tokens and of the mean token's.
    """
    pool = visual.attnpool
    positioned = tokens + pool.positional_embedding[1:].to(tokens.dtype)  # [0] is the mean token's
    projected: Tensor = pool.c_proj(pool.v_proj(positioned))
    return projected


def _siglip(visual: Any, tokens: Tensor) -> Tensor:
    """The attention pool of each token alone, so that its attention weight is 1. (B, h w, D)"""
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    positioned = tokens if pool.pos_embed is None else tokens + pool.pos_embed.to(tokens.dtype)
    width = pool.kv.in_features  # rows of `kv`: keys, then values
    bias = None if pool.kv.bias is None else pool.kv.bias[width:]
    pooled = pool.proj(linear(positioned, pool.kv.weight[width:], bias))
    if pool.mlp is not None:
        pooled = pooled + pool.mlp(pool.norm(pooled))
    projected: Tensor = visual.head(trunk.head(trunk.fc_norm(pooled)))
    return projected


_PROJECTIONS: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "VisionTransformer": _vit,
    "ModifiedResNet": _resnet,
    "TimmModel": _siglip,
}
