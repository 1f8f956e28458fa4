"""Which classes the text features do not tell apart."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 1024
_NEAR = 2e-3
"""Distance of unit vectors: rounding to half precision is less, another word a hundred times so."""


def class_weights(text_features: NDArray[Any]) -> NDArray[np.float32]:
    """Zero-shot class weights, the unit means of unit prompts.

    Parameters
    ----------
    text_features : ndarray
        Zeros where a class has fewer prompts than others. (C, P, D)

    Returns
    -------
    ndarray
        Zeros where a class has no text. (C, D)
    """
    text = text_features.astype(np.float32)
    if not text.shape[1]:
        return np.zeros((text.shape[0], text.shape[2]), np.float32)
    mean = _unit(text).mean(axis=1)
    return _unit(mean)


def equal_texts(text_features: NDArray[Any]) -> list[tuple[int, ...]]:
    """Groups of classes whose texts are equal but for rounding.

    Parameters
    ----------
    text_features : ndarray
        As in `class_weights`. (C, P, D)

    Returns
    -------
    list of tuple of int
        Class indices; classes with a text of their own are in no group, nor are classes without.
    """
    if not text_features.shape[1]:
        return []
    weights = class_weights(text_features)  # (C, D)
    squares = (weights**2).sum(axis=1)  # (C,)
    groups: dict[int, list[int]] = defaultdict(list)
    for start in range(0, len(weights), _ROWS):
        block = slice(start, start + _ROWS)
        before = slice(0, start + _ROWS)
        cosines = weights[block] @ weights[before].T  # (n, m)
        distances = squares[block, None] + squares[None, before] - 2 * cosines  # squared
        for row, first in enumerate((distances < _NEAR**2).argmax(axis=1).tolist()):
            groups[first].append(start + row)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    largest[largest == 0] = 1
    scaled = rows / largest  # a norm squares, and squares may be too large for float32
    norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
    norms[norms == 0] = 1
    unit: NDArray[np.float32] = scaled / norms
    return unit
