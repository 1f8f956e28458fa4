"""What is said beside the features: text, class names, and which part is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers.text import TextFeatures

CLIP_SCALE = 100.0
"""CLIP's published logit scale; features without one are taken to be of such a model."""


@dataclass(frozen=True)
class ClassList:
    """What the user says beside the features; None where nothing is said.

    Attributes
    ----------
    text : TextFeatures or None
        The classes' text features.
    class_names : tuple of str or None
        In the order of the labels. (C,)
    shots : int or None
        Which of Tip-Adapter's key files.
    label : str or None
        The metadata column of clip-retrieval that holds the class.
    logit_scale : float or None
    """

    text: TextFeatures | None = None
    class_names: tuple[str, ...] | None = None
    shots: int | None = None
    label: str | None = None
    logit_scale: float | None = None


@dataclass(frozen=True)
class Classes:
    """The classes as a cache's header holds them.

    Attributes
    ----------
    names : tuple of str
        (C,)
    sentences : tuple of tuple of str
        (C, P)
    text : ndarray
        Text features. (C, P, D) float32
    logit_scale : float
    logit_bias : float or None
    """

    names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    text: NDArray[np.float32]
    logit_scale: float
    logit_bias: float | None = None


def classes_of(given: ClassList, source: Path, width: int, found: Sequence[str] = ()) -> Classes:
    """Put the classes together from what was said and what was found.

    Parameters
    ----------
    given : ClassList
    source : Path
        What is imported, for messages.
    width : int
        Width D of the image features.
    found : sequence of str
        Class names that the features came with, in the order of the labels.

    Raises
    ------
    InputError
        If there are no text features.
    CacheFormatError
        If they have another width, or class names are more or fewer than text features.
    """
    if given.text is None:
        raise InputError(
            f"'{source}' holds no text features of the classes; give them with --text FILE, or "
            "--classes FILE and --encode to compute them."
        )
    text = given.text.oriented(width)  # (C, P, D)
    names = given.class_names or given.text.class_names or tuple(found)
    names = names or tuple(f"class {number}" for number in range(len(text)))
    if len(names) != len(text):
        raise CacheFormatError(
            f"{given.text.name} has {len(text)} classes and there are {len(names)} class names; "
            "give as many, in the order of the labels."
        )
    if len(text) < 2:
        raise CacheFormatError(f"{given.text.name} has {len(text)} class; at least 2 are needed.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CacheFormatError(f"class name '{twice}' is there twice; give each class its own.")
    prompts = range(text.shape[1])
    sentences = given.text.sentences or tuple(
        tuple(f"{name} (imported prompt {number})" for number in prompts) for name in names
    )
    return Classes(names, sentences, text, _scale(given, given.text), given.text.logit_bias)


def _scale(given: ClassList, text: TextFeatures) -> float:
    if given.logit_scale is not None:
        if not 0 < given.logit_scale < np.inf:
            raise InputError(f"the logit scale must be above 0; got {given.logit_scale}.")
        return given.logit_scale
    if text.logit_scale is None:
        return CLIP_SCALE
    if not 0 < text.logit_scale < np.inf:
        raise CacheFormatError(
            f"{text.name} come with a logit_scale of {text.logit_scale}; it must be above 0."
        )
    return text.logit_scale
