"""The last projection of an image tower, and the features that it projects.

An image tower ends in a matrix that takes its own feature (E,) to the space of the texts (D,):
`x = h W + b`. ProLIP (Fahes et al. 2024, arXiv 2410.05270) tunes that matrix, and so needs h.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.encoders.encoder import Encoder


class Projection(NamedTuple):
    """`x = h W + b`.

    Attributes
    ----------
    weight : Tensor
        W, float32. (E, D)
    bias : Tensor
        b, zeros where the tower has none, float32. (D,)
    """

    weight: Tensor
    bias: Tensor


class BothFeatures(NamedTuple):
    """An image tower's feature, the same as `Encoder.encode_pixels`, and what it projects.

    Attributes
    ----------
    features : Tensor
        (B, D)
    pre_projection : Tensor
        (B, E)
    """

    features: Tensor
    pre_projection: Tensor


def projection_of(encoder: Encoder) -> Projection:
    """The last projection of an encoder's image tower, on the CPU.

    Raises
    ------
    InputError
        If the tower does not end in one matrix that cafe knows.
    """
    weight, bias = _parts(getattr(encoder._network, "visual", None), encoder.model)
    bias = weight.new_zeros(weight.shape[1]) if bias is None else bias
    return Projection(weight.detach().float().cpu(), bias.detach().float().cpu())


@torch.inference_mode()
def encode_both(encoder: Encoder, pixels: Tensor) -> BothFeatures:
    """Encode a batch of preprocessed images, before and after the projection.

    Parameters
    ----------
    encoder : Encoder
    pixels : Tensor
        As `Encoder.encode_pixels` takes them. (B, S, S, 3) uint8

    Returns
    -------
    BothFeatures
        In float32 on the CPU.

    Raises
    ------
    InputError
        As of `projection_of`.
    """
    tower = PreProjectionTower(encoder)
    h = tower(encoder.standardized(pixels))  # (B, E + D) or (B, E)
    features = tower.project(h)
    return BothFeatures(features.float().cpu(), h[:, : tower.width].float().cpu())


class PreProjectionTower(nn.Module):
    """Normalised images (B, 3, S, S) to the features that the last projection takes (B, E).

    The network itself is left as it is: other threads may use it.

    Parameters
    ----------
    encoder : Encoder
    only : bool
        Leave out what `project` needs: the projected features (B, D) behind those of a ResNet,
        whose own product gives other last bits than the projection alone.
    """

    def __init__(self, encoder: Encoder, *, only: bool = False) -> None:
        super().__init__()
        visual = encoder._network.visual
        weight, _ = _parts(visual, encoder.model)
        self.width = weight.shape[0]
        self.visual = copy.copy(visual)
        if _is_vit(visual):
            self._weight = weight
            self.visual._parameters = {**visual._parameters, "proj": None}
        else:
            self.visual._modules = {
                **visual._modules,
                "attnpool": _BothPools(visual.attnpool, only),
            }

    def forward(self, x: Tensor) -> Tensor:
        """See the class. (B, E), or (B, E + D)"""
        h: Tensor = self.visual(x)
        return h

    def project(self, h: Tensor) -> Tensor:
        """The projected features of what `forward` gave. (B, D)"""
        return h[:, self.width :] if h.shape[1] > self.width else h @ self._weight


class _BothPools(nn.Module):
    """A ResNet's attention pool without its last projection, and the whole pool beside it."""

    def __init__(self, pool: Any, only: bool) -> None:
        super().__init__()
        self.pool, self.before = None if only else pool, copy.copy(pool)
        same = nn.Linear(1, 1, device=pool.c_proj.weight.device)
        width = pool.c_proj.in_features
        same.weight = nn.Parameter(torch.eye(width).to(pool.c_proj.weight), requires_grad=False)
        same.bias = nn.Parameter(same.weight.new_zeros(width), requires_grad=False)
        # attention is one call of torch with its last projection: the identity takes that place
        self.before._modules = {**pool._modules, "c_proj": same}

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.before(x)
        return h if self.pool is None else torch.cat([h, self.pool(x)], dim=1)


def _is_vit(visual: Any) -> bool:
    # timm has a class of that name too, without a projection
    return type(visual).__name__ == "VisionTransformer" and hasattr(visual, "proj")


def _parts(visual: Any, model: str) -> tuple[Tensor, Tensor | None]:
    """W (E, D) and b (D,) of a tower, as views of its own."""
    if _is_vit(visual) and visual.proj is not None and not visual.output_tokens:
        return visual.proj, None
    pool = getattr(visual, "attnpool", None)
    if type(visual).__name__ == "ModifiedResNet" and pool is not None:
        return pool.c_proj.weight.mT, pool.c_proj.bias
    raise InputError(
        f"cafe knows no linear last projection of {model}'s image tower; use a ViT or a ResNet of "
        "OpenAI's kind for features before the projection."
    )
