"""Counterfactual features (CPL, He et al. 2022, arXiv 2210.10362) and an adapter that sees them.

An image's unit feature `z` is mixed, coordinate by coordinate, with the feature `z_neg` of its most
confusable class: `z' = (1 - u) z + u z_neg` with `u` in [0, 1]^D (equation 2). `u` is the smallest
such mask, by its sum, under which zero-shot CLIP gives up the image's class (section 3.3). The lead
of the other class is linear in `u`::

    (w_neg - w_y) z' = (w_neg - w_y) z + sum_d u_d (z_neg - z)_d (w_neg - w_y)_d

so the smallest mask is known without a search: replace the coordinates that add most to the lead,
from the best on, the last one in part. The authors find it step by step, a coordinate at a time.

CPL teaches the texts to tell an image from its counterfactual. Of the visual adapter the texts are
CLIP's and the adapter learns it: beside cross-entropy there is the contrast of adapted features
with adapted counterfactuals. It needs no encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from cafe.engine.architecture import Architecture, Batch, Tensors
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.checks import check_not_negative
from cafe.methods.clip_adapter.architecture import AdapterArchitecture, VisualAdapter


def confusable_classes(weights: Tensor, counts: Tensor) -> Tensor:
    """For each class the other one with the most similar text, among those that have images.

    Parameters
    ----------
    weights : Tensor
        Unit text features of the classes. (C, D)
    counts : Tensor
        Images of each class. (C,)

    Returns
    -------
    Tensor
        Class indices; its own where no other class has an image. (C,)
    """
    similarity = weights @ weights.mT  # (C, C)
    similarity.fill_diagonal_(-2.0)  # below every cosine
    similarity[:, counts == 0] = -3.0
    best = similarity.argmax(dim=-1)
    own = torch.arange(len(weights), device=weights.device)
    return torch.where(similarity.gather(1, best[:, None])[:, 0] > -2.0, best, own)


def smallest_mask(z: Tensor, negative: Tensor, towards: Tensor) -> Tensor:
    """The mask of the smallest sum under which `z` comes to be `negative`'s class.

    Parameters
    ----------
    z, negative : Tensor
        Features of images and of their confusable classes. (..., D)
    towards : Tensor
        Class weights of the confusable class less those of the image's own. (..., D)

    Returns
    -------
    Tensor
        From 0 to 1; all 0 for an image that is taken for the other class already, and 1 wherever
        it helps where nothing suffices. (..., D)
    """
    lack = -(towards * z).sum(dim=-1, keepdim=True)  # (..., 1) by how far its own class leads
    gains, order = ((negative - z) * towards).clamp_min(0).sort(dim=-1, descending=True)
    before = gains.cumsum(dim=-1) - gains  # gained by all better coordinates
    share = ((lack - before) / gains.clamp_min(1e-12)).clamp(0, 1) * (gains > 0)
    return torch.zeros_like(z).scatter_(-1, order, share)


def counterfactuals(z: Tensor, y: Tensor, train: TrainingSet, factor: float = 1.0) -> Tensor:
    """Every image's feature with the smallest edit towards its most confusable class.

    Parameters
    ----------
    z : Tensor
        Unit features of images of the training set, or of their views. (N, D)
    y : Tensor
        Class indices. (N,)
    train : TrainingSet
        Gives the class texts, and for each class the mean of its unit features.
    factor : float
        What masks are multiplied by; 0 leaves every feature as it is.

    Returns
    -------
    Tensor
        Edited features. (N, D)
    """
    weights, features = train.text.weights, train.features
    counts = features.y.bincount(minlength=len(weights))
    means = torch.zeros_like(weights).index_add_(0, features.y, features.unit)
    other = confusable_classes(weights, counts)[y]  # (N,)
    negative = normalize(means, dim=-1)[other]  # (N, D)
    mask = factor * smallest_mask(z, negative, weights[other] - weights[y])
    return z + mask * (negative - z)


def contrast(own: Tensor, factual: Tensor, edited: Tensor, scale: float) -> Tensor:
    """Loss of telling an image's feature from its counterfactual by its own class's text.

    `-log(e^(s cos(t, z)) / (e^(s cos(t, z)) + e^(s cos(t, z'))))`, with CLIP's logit scale s as the
    inverse temperature. (The authors' code has s = 1 and takes the mean over the texts of all
    classes: beside a cross-entropy at s = 100 that is next to nothing.)

    Parameters
    ----------
    own : Tensor
        Unit text features of the images' classes. (..., D)
    factual, edited : Tensor
        Unit features. (..., D)
    scale : float
        The logit scale.

    Returns
    -------
    Tensor
        Losses; log 2 where nothing was edited. (...)
    """
    return softplus(scale * (own * (edited - factual)).sum(dim=-1))


@dataclass(frozen=True)
class CounterfactualAdapter(VisualAdapter):
    """`VisualAdapter` with the contrast for a penalty; gradients come from autograd.

    Attributes
    ----------
    weight : float
        Of the contrast; 1 is the authors'.
    mask : float
        Factor on the smallest mask; 0 is `VisualAdapter`.
    """

    weight: float = 1.0
    mask: float = 1.0

    gradients = Architecture.gradients  # those by hand know of no penalty
    takes_kernels = Architecture.takes_kernels

    def examples(self, train: TrainingSet) -> Features:
        """The images, each beside its counterfactual, in features of width 2 D."""
        features = train.features
        x = self._beside(features.x, features.y, train)  # (N, 2 D)
        if features.views is None:
            return Features(x, features.y)
        views = features.views.shape[1]
        flat, y = features.views.flatten(0, 1), features.y.repeat_interleave(views)
        pairs = self._beside(flat, y, train).view(len(x), views, -1)  # (N, V, 2 D)
        return Features(x, features.y, pairs)

    def _beside(self, x: Tensor, y: Tensor, train: TrainingSet) -> Tensor:
        """Unit features of raw ones x (N, D), each beside its counterfactual. (N, 2 D)"""
        unit = normalize(x.float(), dim=-1)
        return torch.cat([unit, counterfactuals(unit, y, train, self.mask)], dim=-1)

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        """Unit features; of images that are trained on also their counterfactuals."""
        width = text.features.shape[-1]
        rows, edited = super().rows(x[:, :width], text), x[:, width:]
        return {**rows, "edited": edited} if edited.shape[-1] else rows

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The weighted contrast of each run. (S, M)"""
        pair = (batch.rows["x"], batch.rows["edited"])  # (S, B, D) each
        z, edited = (normalize(self.blend(v, params, batch), dim=-1) for v in pair)
        own = batch.weights[batch.y][:, None]  # (S, 1, B, D)
        return self.weight * contrast(own, z, edited, batch.scale).mean(dim=-1)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: blends of three kinds and what autograd keeps of them."""
        return parameters + rows * (16 * width + 6 * self.bottleneck) + 8 * rows * classes


def check_counterfactual(weight: float, architecture: type[AdapterArchitecture]) -> float:
    """A weight of the contrast, or a refusal.

    Raises
    ------
    InputError
        If it is below 0, or above 0 for another branch than the visual one.
    """
    number = check_not_negative("counterfactual", weight)
    if number and architecture is not VisualAdapter:
        raise InputError(
            "counterfactuals are of image features, and this method adapts class weights too or "
            "alone; leave counterfactual out, or take clip-adapter."
        )
    return number
