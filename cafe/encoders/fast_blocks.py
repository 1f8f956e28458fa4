"""Open_clip's transformers in bfloat16 on a CPU, with fewer passes over memory.

As open_clip has them, half of the time of ViT-B-32 goes to what is no product, and most of its text
tower's to copies of weights. Here oneDNN adds biases and residual sums in its products, attention
is one call, and patches are multiplied rather than convolved. Weights are shared, not copied.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cosine_similarity,
    layer_norm,
    scaled_dot_product_attention,
    silu,
)

LEAST_COSINE = 0.999
"""Of features against open_clip's own; bfloat16 alone makes them differ by about 0.0001."""

LEAST_WIDTH = 128
"""Of a block, so that it is worth it: small encoders, `nano` for one, keep their features."""

QUICK_GAIN = 1.702
"""Of `x sigmoid(1.702 x)`, OpenAI's GELU."""


@torch.no_grad()
def quicken(network: Any, size: tuple[int, int]) -> set[str]:
    """Put fast parts into a network's towers in place, where they compute what the towers do.

    Parameters
    ----------
    network : nn.Module
        In bfloat16 on a CPU.
    size : tuple of int
        Height and width of its images.

    Returns
    -------
    set of str
        Which towers have them, of "image" and "text". Towers of other kinds stay as they are, and
        so does one whose features of random inputs change by more than bfloat16 explains.
    """
    draw, found = torch.Generator().manual_seed(0), set()
    visual, owner = network.visual, getattr(network, "text", network)  # CLIP is its own text tower
    text = getattr(owner, "transformer", None)
    if _has_known_patches(visual) and _has_known_blocks(visual.transformer):
        images = torch.rand(2, 3, *size, generator=draw).to(torch.bfloat16)
        patches = visual, "conv1", PatchProduct(visual.conv1)
        parts = [patches, (visual.transformer, "resblocks", _fast(visual.transformer))]
        if _replace(parts, lambda: network.encode_image(images)):
            found.add("image")
    if _has_known_blocks(text):
        length, last = owner.context_length, owner.vocab_size - 1
        ids = torch.randint(1, last, (2, length), generator=draw)
        ids[:, -1] = last  # where a sentence ends
        if _replace([(text, "resblocks", _fast(text))], lambda: network.encode_text(ids)):
            found.add("text")
    return found


def _replace(parts: list[tuple[Any, str, nn.Module]], feature: Callable[[], Tensor]) -> bool:
    """Put parts into their places, and what was there back where the feature differs."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]
    # RuntimeError: of shapes, of a oneDNN without bfloat16 on this processor, of a tower that fails
    # by itself; AttributeError: a PyTorch that was built without oneDNN has no such products
    with contextlib.suppress(RuntimeError, AttributeError):
        expected = feature().float()
        for owner, name, part in parts:
            setattr(owner, name, part)
        if (cosine_similarity(feature().float(), expected) >= LEAST_COSINE).all():  # not with NaN
            return True
    for owner, name, part in before:
        setattr(owner, name, part)
    return False


def _fast(transformer: Any) -> nn.ModuleList:
    return nn.ModuleList(map(FastBlock, transformer.resblocks))


def _has_known_patches(visual: Any) -> bool:
    convolution = getattr(visual, "conv1", None)
    return (
        type(visual).__name__ == "VisionTransformer"
        and type(convolution) is nn.Conv2d
        and convolution.bias is None
        and convolution.stride == convolution.kernel_size
    )


def _has_known_blocks(transformer: Any) -> bool:
    blocks = getattr(transformer, "resblocks", ())
    return len(blocks) > 0 and all(map(_is_known_block, blocks))


def _is_known_block(block: Any) -> bool:
    return (
        type(block).__name__ == "ResidualAttentionBlock"
        and block.attn.embed_dim >= LEAST_WIDTH
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

    def get_weight_dtype(self) -> torch.dtype:
        """The type that open_clip casts embeddings to."""
        return self.mlp.c_fc.weight.dtype  # type: ignore[no-any-return]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens to tokens (B, L, D); the mask (L, L) is added to what attention sees."""
        rows = x.flatten(0, 1)  # (B L, D)
        seen = self._attention(_norm(self.ln_1, rows).view(x.shape), attn_mask).view(rows.shape)
        out = self.attn.out_proj
        return self._mlp(_product(seen, out.weight, out.bias, rows)).view(x.shape)

    # large tensors end with these calls, and in place: where many live at a time, the C library
    # gives memory back to the system, and new pages cost as much as attention
    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens that attended to each other, before the output's product. (B, L, D)"""
        qkv = _product(x.flatten(0, 1), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = qkv.view(*x.shape[:2], 3, self.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask.to(x.dtype)
        seen = scaled_dot_product_attention(q, k, v, mask)  # (B, heads, L, D / heads)
        return seen.transpose(1, 2).reshape(x.shape)

    def _mlp(self, rows: Tensor) -> Tensor:
        """Rows, and the MLP of their norms. (B L, D)"""
        wide = _product(_norm(self.ln_2, rows), self.mlp.c_fc.weight, self._wide_bias)
        weight = self.mlp.c_proj.weight
        if self._is_quick:
            out = _product(silu(wide, inplace=True), weight, self._bias)
            return rows.add(out, alpha=1 / QUICK_GAIN)
        return _product(torch.ops.aten.gelu_(wide), weight, self._bias, rows)


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
