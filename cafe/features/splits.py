"""Few-shot draws: a function of (labels, shots, seed) and of nothing else.

The generator is private to each (seed, class), so a draw depends neither on what ran before nor on
the other classes, and draws nest: the 4-shot set of a seed holds its 2-shot set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.errors import InputError

Shots = int | Literal["all"]

VALIDATION_SHOTS = 4
"""Images per class of the few-shot validation set, at most (CoOp, arXiv 2109.01134, appendix)."""

MOST_FOLDS = 4
"""Folds of cross-validation inside the shots, at most; K shots give no more than K."""

_VALIDATION_STREAM = 1  # so that validation draws differ from training draws of the same seed


def _rows_by_class(labels: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each class that is there with its rows, both in ascending order; one pass for all classes."""
    rows = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[rows], return_index=True)
    return zip(classes.tolist(), np.split(rows, starts[1:]), strict=True) if len(rows) else iter(())


def _class_order(count: int, seed: int, label: int, stream: int) -> NDArray[np.int64]:
    if count == 1:  # nothing to shuffle, and a generator takes longer than all else
        return np.zeros(1, np.int64)
    sequence = np.random.SeedSequence([seed, label, stream])
    # RandomState's streams are frozen by NumPy's policy (NEP 19); those of Generator are not.
    generator = np.random.RandomState(np.random.MT19937(sequence))
    return np.asarray(generator.permutation(count), dtype=np.int64)


def draw_shots(labels: Tensor, shots: Shots, seed: int, *, stream: int = 0) -> Tensor:
    """Draw K images per class without replacement.

    Parameters
    ----------
    labels : Tensor
        Class indices of the split that is drawn from. (N,)
    shots : int or "all"
        K, images per class; a class with fewer gives all that it has. "all" takes every row.
    seed : int
        Seed of the draw, at least 0.
    stream : int
        Independent draws of the same seed have different streams.

    Returns
    -------
    Tensor
        Rows of the drawn images, class by class. (M,) int64

    Raises
    ------
    InputError
        If `shots` is below 1 or `seed` is negative.
    """
    if shots == "all":
        return torch.arange(len(labels))
    if shots < 1:
        raise InputError(f"shots must be at least 1 or 'all'; got {shots}.")
    if seed < 0:
        raise InputError(f"seeds must be at least 0; got {seed}.")
    y = labels.cpu().numpy()
    drawn = [
        rows[_class_order(len(rows), seed, label, stream)[:shots]]
        for label, rows in _rows_by_class(y)
    ]
    return torch.from_numpy(np.concatenate(drawn).astype(np.int64))


def draw_validation(labels: Tensor, shots: Shots, seed: int) -> Tensor:
    """Draw min(K, 4) validation images per class, as CoOp does.

    Parameters
    ----------
    labels : Tensor
        Class indices of the validation split. (N,)
    shots : int or "all"
        K of the training draw; "all" takes every row.
    seed : int
        Seed of the training draw.

    Returns
    -------
    Tensor
        Rows of the drawn images. (M,) int64
    """
    count: Shots = "all" if shots == "all" else min(shots, VALIDATION_SHOTS)
    return draw_shots(labels, count, seed, stream=_VALIDATION_STREAM)


Rows = list[tuple[Tensor, Tensor]]
"""For each fold the rows that are kept for training and those that are held out, both int64."""


def draw_folds(
    labels: Tensor, seed: int, most: int = MOST_FOLDS, groups: NDArray[np.int64] | None = None
) -> Rows:
    """Split rows into stratified folds for cross-validation.

    The images of each class go round over the folds, in a random order. The only image of a class
    is never held out: a head that was not shown a class is pulled away from it, so to judge it
    there would favour heads that do little.

    Parameters
    ----------
    labels : Tensor
        Class indices. (N,)
    seed : int
        Seed of the folds.
    most : int
        Folds at most.
    groups : ndarray, optional
        Rows of one group, as boxes on one image, are held out together. A class of one group is
        held out nowhere. Where each row is a group of its own, folds are as without. (N,)

    Returns
    -------
    list of (Tensor, Tensor)
        min(K, most) folds for K images in the largest class, as `Rows` says; none where K is below
        2.
    """
    y = labels.cpu().numpy()
    if groups is not None and len(np.unique(groups)) < len(groups):
        return _folds_of(_group_folds(y, groups, seed, most), most)
    folds = min(int(np.bincount(y).max(initial=0)), most)
    if folds < 2:
        return []
    fold_of = np.full(len(y), -1)  # (N,)
    for label, rows in _rows_by_class(y):
        if len(rows) < 2:
            continue
        order = _class_order(len(rows), seed, label, stream=2)
        fold_of[rows[order]] = np.arange(len(rows)) % folds
    return _folds_of(fold_of, folds)


def _folds_of(fold_of: NDArray[np.int64], folds: int) -> Rows:
    everything = torch.arange(len(fold_of))
    held_out = [torch.from_numpy(fold_of == fold) for fold in range(folds)]
    return [(everything[~mask], everything[mask]) for mask in held_out if mask.any()]


def _group_folds(
    y: NDArray[np.int64], groups: NDArray[np.int64], seed: int, most: int
) -> NDArray[np.int64]:
    """The fold of each row, the same for all of its group; -1 where it is never held out. (N,)"""
    names, group = np.unique(groups, return_inverse=True)
    fold_of_group = np.random.default_rng(seed).permutation(len(names)) % most
    fold_of: NDArray[np.int64] = fold_of_group[group]
    for _, rows in _rows_by_class(y):
        if len(np.unique(fold_of[rows])) == 1:  # one fold would have none of the class to learn
            fold_of[rows[group[rows] == group[rows[0]]]] = -1
    return fold_of


def first_folds(folds: Rows, images: int) -> Rows:
    """As many of the first folds as hold out so many images together; all where they do not."""
    before = np.cumsum([0, *(len(out) for _, out in folds)])
    return [fold for fold, held_out in zip(folds, before, strict=False) if held_out < images]
