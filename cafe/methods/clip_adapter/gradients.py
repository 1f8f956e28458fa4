"""The visual branch's gradients by hand, with few passes over (S, M, B, D).

With `h = relu(W1 x)`, `A = relu(h W2)`, the blend `f = a A + (1 - a) x`, the logits
`z = s f w^T / |f|` and `G = (softmax(z) - onehot(y)) / B`::

    df  = (s G w - (G . z) f / |f|) / |f|        from d(f / |f|)
    dA  = a df  where A > 0
    dW2 = h^T dA,   dh = dA W2^T  where h > 0,   dW1 = dh^T x
    da  = sum df . (A - x) = -(sum df . x) / a   as df . f = 0

`w` is taken less its mean over the classes: softmax and `G w` do not change (the rows of `G` sum to
0), and logits near 0 lose less when a product rounds them to bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.engine.architecture import Batch, Tensors
from cafe.engine.kernels import Kernels
from cafe.engine.workspace import Workspace


@dataclass(frozen=True)
class _Forward:
    """What the backward pass needs of the forward pass; matrices in the type of products."""

    x: Tensor  # (S, B, D)
    w: Tensor  # (C, D)
    down: Tensor  # (R, H, D)
    up: Tensor  # (R, H, D)
    hidden: Tensor  # (R, H, B)
    adapted: Tensor  # before the outer ReLU, (R, B, D)
    ratio: Tensor  # a, float32, (S, M, 1, 1)
    final_relu: bool


@dataclass(frozen=True)
class _Blended(_Forward):
    """The rest of the forward pass, with the outer ReLU."""

    blend: Tensor  # (S, M, B, D)
    norm: Tensor  # (S, M, B, 1)


def visual_gradients(
    params: Tensors,
    batch: Batch,
    grads: Tensors,
    work: Workspace,
    ratio: Tensor,
    *,
    final_relu: bool,
    along: Tensor | None = None,
) -> None:
    """Write the gradients of "down" and "up"; see `Architecture.gradients`.

    Parameters
    ----------
    params, grads, batch, work
        As `Architecture.gradients` has them.
    ratio : Tensor
        a, float32. (S, M, 1, 1)
    final_relu : bool
        Whether `A` has its outer ReLU.
    along : Tensor or None
        Where to write `sum df . x`, which is -a times the gradient of a. (S, M, 1, 1)
    """
    if _by_tiles(params, batch, grads, work, ratio, final_relu):
        return
    saved = _forward(params, batch, work, ratio, final_relu)
    if work.kernels is None:
        blended = _blend(saved, work)
        error, pull = _class_errors(blended, batch, work, along)
        d_adapted = _blend_gradient(blended, error, pull)
    else:
        d_adapted = _adapted_gradient(saved, batch, work, work.kernels)
    _weight_gradients(saved, d_adapted, grads, work)


def _by_tiles(
    params: Tensors, batch: Batch, grads: Tensors, work: Workspace, ratio: Tensor, final_relu: bool
) -> bool:
    """The whole in one call, run by run, if this processor and shape allow; else False.

    One thread takes it: where a step is worth several, torch's products in all of them are faster.
    """
    kernels, low = work.kernels, work.product
    streams, runs, hidden_width, width = params["down"].shape
    if kernels is None or not kernels.tiles or low != torch.bfloat16 or width % 32:
        return False
    if torch.get_num_threads() > 1:
        return False
    rows, classes = batch.y.shape[1], len(batch.weights)

    def packed() -> Tensor:
        out = torch.empty(2, -(-classes // 32) * 32, width, dtype=low)
        kernels("pack_classes", low, _class_weights(batch, low), *out, classes, width)
        return out

    x = work.cast("x", batch.rows["x"])
    weights = (work.cast(name, params[name]) for name in ("down", "up"))
    given = x, *work.once("packed", packed), *weights, ratio, batch.y, grads["down"], grads["up"]
    shape = streams, runs, rows, width, hidden_width, classes
    kernels("visual_gradients", low, *given, batch.scale, *shape, int(final_relu))
    return True


def _class_weights(batch: Batch, low: torch.dtype) -> Tensor:
    """Class weights less their mean, in the type of products. (C, D)"""
    return (batch.weights - batch.weights.mean(0)).to(low)


def _forward(
    params: Tensors, batch: Batch, work: Workspace, ratio: Tensor, final_relu: bool
) -> _Forward:
    low = work.product
    streams, runs, hidden_width, width = params["down"].shape
    rows, count = batch.y.shape[1], streams * runs
    x = work.cast("x", batch.rows["x"])  # (S, B, D)
    w = work.once("w", lambda: _class_weights(batch, low))  # (C, D)
    down = work.cast("down", params["down"]).view(count, hidden_width, width)
    up = work.cast("up", params["up"]).view(count, hidden_width, width)

    hidden = work("hidden", streams, runs * hidden_width, rows, dtype=low)
    torch.bmm(down.view(streams, -1, width), x.mT, out=hidden)
    hidden = _relu(hidden).view(count, hidden_width, rows)  # (R, H, B)
    adapted = work("adapted", count, rows, width, dtype=low)
    torch.bmm(hidden.mT, up, out=adapted)
    return _Forward(x, w, down, up, hidden, adapted, ratio, final_relu)


def _blend(saved: _Forward, work: Workspace) -> _Blended:
    low = work.product
    if saved.final_relu:
        _relu(saved.adapted)
    streams, rows, width = saved.x.shape
    blend = work("blend", streams, len(saved.adapted) // streams, rows, width, dtype=low)
    adapted = saved.adapted.view(blend.shape)
    torch.lerp(saved.x[:, None], adapted, saved.ratio.to(low), out=blend)
    norm = torch.linalg.vector_norm(blend, dim=-1, keepdim=True).to(work.wide).clamp_min_(1e-12)
    return _Blended(**vars(saved), blend=blend, norm=norm)


def _adapted_gradient(saved: _Forward, batch: Batch, work: Workspace, kernels: Kernels) -> Tensor:
    """`dA` as `_blend`, `_class_errors`, `_blend_gradient` give it, in fewer passes. (R, B, D)"""
    low, relu = work.product, int(saved.final_relu)
    count, rows, width = shape = saved.adapted.shape
    classes, streams = len(saved.w), len(saved.x)
    of_streams = streams, count // streams, rows
    blend, gradient = (work(name, *shape, dtype=low) for name in ("blend", "gradient"))
    norm, pull = (work(name, count, rows) for name in ("norm", "pull"))
    errors = work("products", count * rows, classes, dtype=low)
    adapted, ratio = saved.adapted, saved.ratio
    kernels("blend_rows", low, adapted, saved.x, ratio, blend, norm, *of_streams, width, relu)
    torch.mm(blend.view(-1, width), saved.w.mT, out=errors)
    given = norm, ratio, batch.y, pull, work("exps", classes), batch.scale
    kernels("class_errors", low, errors, *given, *of_streams, classes)
    torch.mm(errors, saved.w, out=gradient.view(-1, width))
    kernels("blend_gradient", low, gradient, blend, adapted, pull, count * rows, width, relu)
    return gradient


def _class_errors(
    saved: _Blended, batch: Batch, work: Workspace, along: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`a s G / |f|` (R * B, C) in the type of products, and `(G . z) / |f|^2` (S, M, B, 1).

    Of many classes it takes so few rows at a time that they stay in a core's cache.
    """
    shape, classes = saved.norm.shape, len(saved.w)  # (S, M, B, 1)
    products = work("products", shape.numel(), classes, dtype=saved.w.dtype)
    torch.mm(saved.blend.view(-1, saved.blend.shape[-1]), saved.w.mT, out=products)
    slope = (batch.scale / saved.norm).view(-1, 1)  # (R * B, 1), as all that follow
    labels = batch.y[:, None, :, None].expand(shape).reshape(-1, 1)
    ratio, square = saved.ratio.expand(shape).reshape(-1, 1), saved.norm.view(-1, 1).square()
    pull = torch.empty_like(slope)
    # the gradient of a learned ratio needs the errors of all rows at once
    rows = max(1, _CACHED // classes) if along is None else len(slope)
    for part in (slice(start, start + rows) for start in range(0, len(slope), rows)):
        logits = work.widened("logits", products[part]).mul_(slope[part])
        error = torch.softmax(logits, dim=-1, out=work("error", *logits.shape))
        own = error.gather(-1, labels[part])
        error.scatter_(-1, labels[part], own - 1)  # softmax - onehot
        pull[part] = logits.mul_(error).sum(-1, keepdim=True) / (shape[2] * square[part])
        error.mul_(slope[part] / shape[2])
        if along is not None:  # before the blend's memory is taken
            along.copy_(_df_x(saved, error.view(*shape[:3], classes), pull.view(shape)))
        products[part] = error.mul_(ratio[part])
    return products, pull.view(shape)


_CACHED = 1 << 18
"""Logits at a time: in float32 they and their errors take 2 MiB, as a core's cache does."""


def _blend_gradient(saved: _Blended, error: Tensor, pull: Tensor) -> Tensor:
    """`dA` of each run, in the memory of the blend. (R, B, D)"""
    low = saved.w.dtype
    d_adapted = saved.blend.mul_((-saved.ratio * pull).to(low)).view(-1, saved.blend.shape[-1])
    d_adapted.addmm_(error, saved.w)
    d_adapted = d_adapted.view(saved.adapted.shape)
    if saved.final_relu:
        _where_positive(d_adapted, saved.adapted)
    return d_adapted


def _weight_gradients(saved: _Forward, d_adapted: Tensor, grads: Tensors, work: Workspace) -> None:
    streams, _, width = saved.x.shape
    count, hidden_width, rows = saved.hidden.shape
    shape = count, hidden_width, width
    work.bmm_into(grads["up"].view(shape), saved.hidden, d_adapted)
    d_hidden = work("d_hidden", count, hidden_width, rows, dtype=saved.w.dtype)
    torch.bmm(saved.up, d_adapted.mT, out=d_hidden)
    _where_positive(d_hidden, saved.hidden)
    flat = streams, -1
    work.bmm_into(grads["down"].view(*flat, width), d_hidden.view(*flat, rows), saved.x)


def _df_x(saved: _Blended, error: Tensor, pull: Tensor) -> Tensor:
    """`df . x`, summed over the batch. (S, M, 1, 1)"""
    plain = torch.matmul(saved.x, saved.w.mT).to(error.dtype)[:, None]  # (S, 1, B, C)
    shared = (saved.blend * saved.x[:, None]).sum(-1, keepdim=True, dtype=error.dtype)
    along = (error * plain).sum(-1, keepdim=True) - pull * shared  # (S, M, B, 1), as `shared`
    return along.sum(-2, keepdim=True)


def _relu(value: Tensor) -> Tensor:
    """ReLU in place.

    On a CPU bfloat16 is clamped as the 16-bit integer of its bits, whose sign is its own: torch
    takes 4 times as long to widen it to float32 and back.
    """
    if value.dtype == torch.bfloat16 and value.device.type == "cpu":
        value.view(torch.int16).clamp_min_(0)
        return value
    return value.relu_()


def _where_positive(gradient: Tensor, value: Tensor) -> None:
    """ReLU's backward pass in place: 0 where `value`, which is not negative, is 0. Spends `value`.

    On a CPU the bits of a bfloat16 gradient are multiplied by 0 or 1, for the reason above.
    """
    if value.dtype == torch.bfloat16 and value.device.type == "cpu":
        positive = value.view(torch.int16).clamp_max_(1)
        gradient.view(torch.int16).mul_(positive)
        return
    torch.ops.aten.threshold_backward.grad_input(gradient, value, 0, grad_input=gradient)
