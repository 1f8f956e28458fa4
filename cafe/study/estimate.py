"""The accuracy to expect on new images, estimated on images that the judged heads have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cafe.features.tensors import ClassText, Features, join
from cafe.methods.head import Head
from cafe.methods.validation import pick_best
from cafe.results.estimate import Estimate, Share, make_estimate
from cafe.study.score_head import score_head

FOLDS = 10
"""Folds of the estimate: each head is fitted on nine tenths of the images, nearly on all."""


def estimate_accuracy(
    judges: Sequence[Sequence[Head]],
    held_out: Sequence[Features],
    text: ClassText,
    zero_shot: Head | None,
    source: Literal["test", "out-of-fold"],
) -> tuple[Estimate, list[float]]:
    """The estimate, and the accuracy of each method on the same images."""
    classes, device = len(text.names), text.features.device
    parts = [part.to(device) for part in held_out]
    scores = [
        [score_head(head, part, classes) for head, part in zip(heads, parts, strict=True)]
        for heads in judges
    ]
    y = torch.cat([part.y for part in parts])  # (J,)
    right = torch.stack([torch.cat([s.right for s in each]) for each in scores])  # (M, J)
    likelihoods = [torch.cat([s.log_likelihood for s in each]) for each in scores]
    losses = -torch.stack(likelihoods)  # (M, J)
    sizes = torch.tensor([len(part) for part in parts], device=device)
    group = torch.arange(len(parts), device=device).repeat_interleave(sizes)  # (J,)
    if source == "test":  # one head judges all: its images in tenths
        group = torch.arange(len(y), device=device) % FOLDS
    hits = nested_choice_hits(right, losses, group)
    images = _count(y, classes)
    plain = score_head(zero_shot, join(parts), classes).accuracy if zero_shot else None
    estimate = make_estimate(
        [Share(*pair) for pair in zip(images, _count(y[hits], classes), strict=True)],
        "test split" if source == "test" else "cross-validation",
        len(parts),
        plain,
    )
    return estimate, (100 * right.double().mean(dim=1)).tolist()


def _count(labels: Tensor, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts


def nested_choice_hits(right: Tensor, losses: Tensor, group: Tensor) -> Tensor:
    """Whether images are labelled right by the method that the other groups of images choose.

    The accuracy of the best of several methods, on the images that it was chosen by, is too high.
    So the method that labels a group of images is chosen without these.

    Parameters
    ----------
    right : Tensor
        Whether each of M methods labels each of J images right. (M, J) bool
    losses : Tensor
        Their negative log-likelihoods. (M, J)
    group : Tensor
        The group of each image. (J,)

    Returns
    -------
    Tensor
        (J,) bool
    """
    hits = right[0].clone()
    for number in range(int(group.max()) + 1):
        in_group = group == number
        others = ~in_group if not in_group.all() else in_group
        best = pick_best(right[:, others].double().mean(dim=1), losses[:, others].mean(dim=1))
        hits[in_group] = right[best, in_group]
    return hits
