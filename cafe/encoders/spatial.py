"""The spatial map of an image: what a frozen tower sees where, in the space of its features.

A tower joins what it has seen at each place into one feature. Each place by itself, put through the
same last layers, is a token of that feature's space (dense CLIP: MaskCLIP, Zhou et al. 2022, arXiv
2112.01071, section 3.2).
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
    """What a tower gives for a batch of images.

    Attributes
    ----------
    features : Tensor
        Raw features, as without a map. (B, D)
    tokens : Tensor
        Projected tokens of the pooled grid, row by row. (B, T, D)
    """

    features: Tensor
    tokens: Tensor


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
        On the CPU, features in float32 and tokens in float16, as caches hold them.

    Raises
    ------
    InputError
        If the tower has no map that is known.
    """
    found = see(encoder._network, encoder.standardized(pixels), pool)
    return TowerOutput(found.features.float().cpu(), found.tokens.half().cpu())


@torch.inference_mode()
def grid_of(encoder: Encoder, pool: int) -> tuple[int, int]:
    """Height and width of an encoder's pooled grid.

    Raises
    ------
    InputError
        If the tower has no map that is known, or the pool is none.
    """
    if pool < 1:
        raise InputError(f"pool must be at least 1; got {pool}.")
    height, width = encoder.preprocess.size
    black = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    return _pooled(_grid(encoder._network, encoder.standardized(black))[1], pool)


def see(network: Any, x: Tensor, pool: int) -> TowerOutput:
    """Feature and map of normalised images (B, 3, S, S), on their device."""
    features, grid = _grid(network, x)
    project = _PROJECTIONS[type(network.visual).__name__]
    tokens = project(network.visual, grid.flatten(2).mT).float()  # (B, h w, D)
    planes = tokens.mT.reshape(tokens.shape[0], -1, *grid.shape[2:])  # (B, D, h, w)
    return TowerOutput(features, adaptive_avg_pool2d(planes, _pooled(grid, pool)).flatten(2).mT)


class SpatialTower(nn.Module):
    """Normalised images (N, 3, S, S) to what a spatial head takes of them. (N, 1 + T, D)"""

    def __init__(self, network: Any, pool: int) -> None:
        super().__init__()
        self.visual, self._pool = network.visual, pool

    def forward(self, x: Tensor) -> Tensor:
        """Each image's feature, and then its map. (N, 1 + T, D)"""
        features, tokens = see(self, x, self._pool)
        return torch.cat([features[:, None], tokens], dim=1)


def _pooled(grid: Tensor, pool: int) -> tuple[int, int]:
    return min(pool, grid.shape[2]), min(pool, grid.shape[3])


def _grid(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, D), and the last block's output at every place, normalised. (B, W, h, w)"""
    visual = network.visual
    kind = type(visual).__name__
    pooled_otherwise = getattr(visual, "attn_pool", None) is not None  # CoCa's queries
    unknown_trunk = kind == "TimmModel" and getattr(visual.trunk, "attn_pool", None) is None
    if kind not in _PROJECTIONS or pooled_otherwise or unknown_trunk:
        raise InputError(
            f"this encoder's {kind} has no spatial map that cafe knows; take a ViT or a ResNet of "
            "OpenAI's kind, or a SigLIP."
        )
    if not hasattr(visual, "forward_intermediates"):
        raise InputError("spatial maps need open_clip_torch 2.30 or newer; update it.")
    found = visual.forward_intermediates(
        x, indices=1, normalize_intermediates=True, output_fmt="NCHW"
    )
    return found["image_features"], found["image_intermediates"][-1]


def _vit(visual: Any, tokens: Tensor) -> Tensor:
    """The projection that the class token gets."""
    projected: Tensor = tokens @ visual.proj
    return projected


def _resnet(visual: Any, tokens: Tensor) -> Tensor:
    """Value and output projection of the attention pool, of every position with its embedding.

    The feature is what the pool's attention makes of these: their mean, were it even (and the mean
    token one of them).
    """
    pool = visual.attnpool
    placed = tokens + pool.positional_embedding[1:].to(tokens.dtype)
    projected: Tensor = pool.c_proj(pool.v_proj(placed))
    return projected


def _siglip(visual: Any, tokens: Tensor) -> Tensor:
    """The attention pool as if a token were all that there is to attend to."""
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    placed = tokens if pool.pos_embed is None else tokens + pool.pos_embed.to(tokens.dtype)
    width = pool.kv.in_features
    bias = None if pool.kv.bias is None else pool.kv.bias[width:]
    seen = pool.proj(linear(placed, pool.kv.weight[width:], bias))
    if pool.mlp is not None:
        seen = seen + pool.mlp(pool.norm(seen))
    projected: Tensor = visual.head(trunk.head(trunk.fc_norm(seen)))
    return projected


_PROJECTIONS: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "VisionTransformer": _vit,
    "ModifiedResNet": _resnet,
    "TimmModel": _siglip,
}
