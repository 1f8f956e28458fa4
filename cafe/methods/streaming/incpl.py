"""InCPL on cached features: each test image is tuned with a few labelled images as its context.

After "In-context prompt learning for test-time vision recognition with frozen vision-language
models" (Yin et al. 2024, arXiv 2403.06126), where a visual and a textual prompt go through the
encoder. Here the encoder is done: the visual prompt is a shift of the features, the textual one a
residual of the class weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.features.tensors import Features

_NUMBERS = 1 << 23  # of the residuals of images that are tuned side by side


@dataclass(frozen=True)
class Tuning:
    """How an image is tuned.

    Attributes
    ----------
    cycles : int
        A step of the shift and one of the residual are a cycle, as the paper takes turns.
    shift_lr, residual_lr : float
        Of Adam.
    context_weight : float
        Of the context's cross-entropy beside the entropy; lambda.
    confident : float
        Share of the views that count, those of the lowest entropy; at least one view.
    """

    cycles: int = 5
    shift_lr: float = 0.001
    residual_lr: float = 0.001
    context_weight: float = 5.0
    confident: float = 0.1


def tune(
    x: Tensor,
    logits: Tensor,
    weights: Tensor,
    scale: float,
    context: Features,
    tuning: Tuning | None = None,
) -> Tensor:
    """What the logits of each image change by, when it is tuned with the context.

    For an image with views `x_v`, minimise over a shift d and a residual r
    `entropy(mean_v softmax(z + s norm(x_v + d) norm(w + r)^T - s x w^T)) + lambda CE(context)`, z
    being the head's logits and the context zero-shot CLIP's under the same d and r, from zero. For
    zero-shot CLIP as the head the first two terms cancel the third. Images do not see each other.

    Parameters
    ----------
    x : Tensor
        Raw features of the images (N, D), or of their views, the plain one first (N, V, D).
    logits : Tensor
        The head's, z. (N, C)
    weights : Tensor
        Unit class weights w of the texts. (C, D)
    scale : float
        The encoder's logit scale s.
    context : Features
        A few labelled images.
    tuning : Tuning, optional

    Returns
    -------
    Tensor
        Tuned logits of view 0. (N, C)
    """
    tuning = tuning or Tuning()
    views = normalize((x if x.ndim == 3 else x[:, None]).float(), dim=-1)  # (N, V, D)
    rows = max(1, _NUMBERS // weights.numel())
    blocks = zip(torch.split(views, rows), torch.split(logits.float(), rows), strict=True)
    parts = [_tune(*block, weights, scale, context, tuning) for block in blocks]
    return torch.cat(parts) if parts else logits


def _tune(
    views: Tensor, z: Tensor, w: Tensor, scale: float, context: Features, tuning: Tuning
) -> Tensor:
    """The same for images whose residuals fit into memory together."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        # tensors that were made under inference_mode cannot take part in a gradient
        views, z, w, known = (t.clone() for t in (views, z, w, context.unit))
        y, plain = context.y.clone().repeat(len(views)), views[:, :1]
        offset = z[:, None] - scale * plain @ w.mT  # (N, 1, C)
        shift = torch.zeros(len(views), 1, w.shape[1], requires_grad=True)  # (N, 1, D)
        residual = torch.zeros(len(views), *w.shape, requires_grad=True)  # (N, C, D)

        def cosines(x: Tensor) -> Tensor:
            return normalize(x + shift, dim=-1) @ normalize(w + residual, dim=-1).mT

        def loss() -> Tensor:
            own = _entropy(offset + scale * cosines(views), tuning.confident)  # (N,)
            on_context = scale * cosines(known[None].expand(len(views), -1, -1)).flatten(0, 1)
            errors = cross_entropy(on_context, y, reduction="none").view(len(views), len(known))
            return (own + tuning.context_weight * errors.mean(dim=1)).sum()

        turns = [
            (shift, torch.optim.Adam([shift], tuning.shift_lr)),
            (residual, torch.optim.Adam([residual], tuning.residual_lr)),
        ]
        for _ in range(tuning.cycles):
            for parameter, optimizer in turns:
                (parameter.grad,) = torch.autograd.grad(loss(), [parameter])
                optimizer.step()
    with torch.no_grad():
        return (offset + scale * cosines(plain)).squeeze(1)


def _entropy(logits: Tensor, confident: float) -> Tensor:
    """Entropy of the mean answer over the most confident views: (N, V, C) -> (N,)"""
    p = torch.softmax(logits, dim=-1)
    of_views = -(p * p.clamp_min(1e-12).log()).sum(dim=-1)  # (N, V)
    count = max(1, int(confident * p.shape[1]))
    best = of_views.topk(count, dim=1, largest=False).indices  # (N, count)
    mean = p.gather(1, best[..., None].expand(-1, -1, p.shape[2])).mean(dim=1)  # (N, C)
    return -(mean * mean.clamp_min(1e-12).log()).sum(dim=-1)
