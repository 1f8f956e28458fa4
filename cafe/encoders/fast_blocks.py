"""Open_clip's vision transformers in bfloat16 on a CPU, with fewer passes over memory.

As open_clip has them, half of the time of ViT-B-32 goes to what is no product: layouts, biases,
residual sums, conversions. Here oneDNN does these in its products, attention is one call, and
patches are multiplied rather than convolved. Weights are shared with open_clip's own parts.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cosine_similarity,
    gelu,
    layer_norm,
    scaled_dot_product_attention,
    silu,
)

LEAST_COSINE = 0.999
"""Of features against open_clip's own; bfloat16 alone makes them differ by about 0.0001."""

QUICK_GAIN = 1.702
"""Of `x sigmoid(1.702 x)`, OpenAI's GELU."""


@torch.no_grad()
def quicken(visual: Any, size: tuple[int, int]) -> bool:
    """Put fast parts into an image tower in place, if it is one that they compute as it does.

    Parameters
    ----------
    visual : nn.Module
        An image tower in bfloat16 on a CPU.
    size : tuple of int
        Height and width of its images.

    Returns
    -------
    bool
        Whether the tower has them: towers of other kinds stay as they are, and so does one whose
        features of two random images change by more than bfloat16 explains.
    """
    if not _is_known(visual):
        return False
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected, convolution, blocks = _feature(visual(x)), visual.conv1, visual.transformer.resblocks
    visual.conv1 = PatchProduct(convolution)
    visual.transformer.resblocks = nn.ModuleList(map(FastBlock, blocks))
    with contextlib.suppress(RuntimeError):  # of a oneDNN that has no bfloat16 on this processor
        if (cosine_similarity(_feature(visual(x)), expected) >= LEAST_COSINE).all():  # not with NaN
            return True
    visual.conv1, visual.transformer.resblocks = convolution, blocks
    return False


def _feature(output: Any) -> Tensor:
    """The feature of what a tower gives; some give tokens too. (B, D) float32"""
    feature: Tensor = output[0] if isinstance(output, tuple) else output
    return feature.float()


def _is_known(visual: Any) -> bool:
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    return (
        type(visual).__name__ == "VisionTransformer"  # open_clip's: timm's has no such blocks
        and len(blocks) > 0
        and type(visual.conv1) is nn.Conv2d
        and visual.conv1.bias is None
        and visual.conv1.stride == visual.conv1.kernel_size
        and all(map(_is_known_block, blocks))
    )


def _is_known_block(block: Any) -> bool:
    return (
        type(block).__name__ == "ResidualAttentionBlock"
        and block.attn.batch_first
        and block.attn.in_proj_bias is not None
        and type(block.ls_1) is type(block.ls_2) is nn.Identity
        and (type(block.mlp.gelu).__name__ == "QuickGELU" or _is_exact_gelu(block.mlp.gelu))
    )


def _is_exact_gelu(layer: Any) -> bool:
    return type(layer) is nn.GELU and layer.approximate == "none"


class PatchProduct(nn.Module):
    """A convolution whose patches do not overlap, as one product.

    Parameters
    ----------
    convolution : nn.Conv2d
        Without a bias.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.sides = convolution.kernel_size
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # (W, p q 3)
        self.weight = nn.Parameter(_laid_out(weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S), best with channels last, to a grid. (B, W, g, h)"""
        p, q = self.sides
        count, g, h = len(x), x.shape[2] // p, x.shape[3] // q
        whole = x[:, :, : g * p, : h * q].permute(0, 2, 3, 1).reshape(count, g, p, h, q, -1)
        product = _product(whole.transpose(2, 3).reshape(count * g * h, -1), self.weight, None)
        return product.view(count, g, h, -1).permute(0, 3, 1, 2)


class FastBlock(nn.Module):
    """What a `ResidualAttentionBlock` of open_clip computes, with its parts.

    Parameters
    ----------
    block : nn.Module
        Its weights get the layout that products take without a copy.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.attn, self.mlp = block.ln_1, block.ln_2, block.attn, block.mlp
        own, mlp = self.attn, self.mlp
        self._is_quick = type(mlp.gelu).__name__ == "QuickGELU"
        gain = QUICK_GAIN if self._is_quick else 1.0
        if self._is_quick:  # x sigmoid(g x) = silu(g x) / g; g comes in where numbers are float32
            self.ln_2 = copy.deepcopy(block.ln_2).float()
            for value in (self.ln_2.weight, self.ln_2.bias):
                value.mul_(gain)
        self._wide_bias, self._bias = mlp.c_fc.bias * gain, mlp.c_proj.bias * gain
        for weight in (own.in_proj_weight, own.out_proj.weight, mlp.c_fc.weight, mlp.c_proj.weight):
            weight.data = _laid_out(weight.data)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 (open_clip names it)
        """Tokens of images to tokens. (B, L, D)"""
        own, mlp, rows = self.attn, self.mlp, x.flatten(0, 1)  # (B L, D)
        qkv = _product(_norm(self.ln_1, rows), own.in_proj_weight, own.in_proj_bias)
        parts = qkv.view(*x.shape[:2], 3, own.num_heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(*parts).transpose(1, 2)  # (B, L, heads, D / heads)
        rows = _product(seen.reshape(rows.shape), own.out_proj.weight, own.out_proj.bias, rows)
        wide = _product(_norm(self.ln_2, rows), mlp.c_fc.weight, self._wide_bias)
        if self._is_quick:
            out = _product(silu(wide, inplace=True), mlp.c_proj.weight, self._bias)
            return rows.add(out, alpha=1 / QUICK_GAIN).view(x.shape)
        return _product(gelu(wide), mlp.c_proj.weight, self._bias, rows).view(x.shape)


def _laid_out(weight: Tensor) -> Tensor:
    """The same matrix in the memory order of its transpose: products take it without a copy."""
    return weight.mT.contiguous().mT


def _norm(layer: nn.LayerNorm, rows: Tensor) -> Tensor:
    """Layer norm, computed in float32 whatever goes in and out."""
    return layer_norm(rows, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None) -> Tensor:
    """`x W^T + b`, and what is to be added to it, rounded once. (n, K)"""
    linear = torch.ops.mkldnn._linear_pointwise
    if plus is None:
        result: Tensor = linear(x, weight, bias, "none", [], "")
    else:
        result = linear.binary(x, plus, weight, bias, "add")
    return result
