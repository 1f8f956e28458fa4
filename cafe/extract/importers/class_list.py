"""The classes of an imported cache: names, sentences and text features."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers.text_features import TextFeatures

if TYPE_CHECKING:
    from cafe.extract.importers.feature_set import FeatureSet

CLIP_SCALE = 100.0
"""CLIP's published logit scale, for features that come without one."""


class ImportOptions(NamedTuple):
    """What the user gives beside the features; None where nothing is given.

    Attributes
    ----------
    text : TextFeatures or None
        Text features of the classes.
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

    def known_names(self) -> tuple[str, ...]:
        """Class names that are given, by themselves or with the text features."""
        return self.class_names or (self.text.class_names if self.text else ())


class ClassList(NamedTuple):
    """The classes, with the names that they have in a cache's header.

    Attributes
    ----------
    class_names : tuple of str
        (C,)
    sentences : tuple of tuple of str
        (C, P)
    text_features : ndarray
        (C, P, D) float32
    logit_scale : float
    logit_bias : float or None
    """

    class_names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    text_features: NDArray[np.float32]
    logit_scale: float
    logit_bias: float | None = None


def make_class_list(options: ImportOptions, features: FeatureSet) -> ClassList:
    """Combine what the user gave with what the features came with; the user's comes first.

    Raises
    ------
    InputError
        If there are no text features.
    CacheFormatError
        If they have another width than the image features, or the number of class names differs.
    """
    texts = options.text or features.text
    if texts is None:
        raise InputError(
            f"'{features.source}' holds no text features of the classes; give them with text=, or "
            "give class names with classes= and let 'cafe cache import --encode' compute them."
        )
    text = texts.oriented(features.width)  # (C, P, D)
    names = options.class_names or texts.class_names or features.class_names
    names = names or tuple(f"class {number}" for number in range(len(text)))
    if len(names) != len(text):
        raise CacheFormatError(
            f"{texts.name} has {len(text)} classes and there are {len(names)} class names; "
            "give as many, in the order of the labels."
        )
    if len(text) < 2:
        raise CacheFormatError(f"{texts.name} has {len(text)} class; at least 2 are needed.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CacheFormatError(f"class name '{twice}' is there twice; give each class its own.")
    prompts = range(text.shape[1])
    sentences = texts.sentences or tuple(
        tuple(f"{name} (imported prompt {number})" for number in prompts) for name in names
    )
    scale = texts.logit_scale if options.logit_scale is None else options.logit_scale
    if scale is not None and not 0 < scale < np.inf:
        raise CacheFormatError(f"{texts.name} have a logit_scale of {scale}; it must be above 0.")
    scale = CLIP_SCALE if scale is None else scale
    return ClassList(names, sentences, text, scale, texts.logit_bias)
