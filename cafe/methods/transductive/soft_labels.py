"""Soft labels of a pool, in blocks of images: what the memory of a large pool hangs on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cafe.features.pool import Pool

Answers = Callable[[Tensor], Tensor]
"""Logits (n, C) of raw features (n, D)."""

LEAST = 1e-12
"""Of a probability, before its logarithm is taken."""

NUMBERS = 1 << 22
"""Logits at a time, at most."""

LEAST_SHARE = 1e-30
"""Far above denormal numbers, which make a product forty times slower, and far below rounding."""


def soft_labels(logits: Tensor) -> Tensor:
    """Softmax with `LEAST_SHARE` for what is less. (n, C)"""
    below = logits - logits.amax(dim=-1, keepdim=True)
    return below.clamp_(min=math.log(LEAST_SHARE)).softmax(dim=-1)


def blocks(rows: int, width: int, numbers: int = NUMBERS) -> list[slice]:
    """Slices of the rows of a matrix that hold a number of its elements, at most."""
    step = max(1, numbers // width)
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def pool_answers(answers: Answers, pool: Pool, classes: int) -> list[Tensor]:
    """Logits of the pool, a block at a time. (n, C)"""
    return [answers(pool.x[rows].float()) for rows in blocks(len(pool), classes)]


def pool_labels(answers: Answers, pool: Pool, classes: int, shift: Tensor) -> Tensor:
    """Soft labels of the whole pool; `shift` is added to the logits. (N, C)"""
    z = torch.empty(len(pool), classes, device=pool.x.device)
    for rows in blocks(len(pool), classes):
        z[rows] = soft_labels(answers(pool.x[rows].float()) + shift)
    return z
