"""The classes of an imported cache: names, sentences and text features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import name_fault, read_text
from cafe.errors import CacheFormatError, InputError, counted, verb
from cafe.extract.importers.arrays import finite, read_array, read_npz

if TYPE_CHECKING:
    from cafe.extract.importers.feature_set import FeatureSet
    from cafe.extract.importers.split_features import SplitFeatures

CLIP_SCALE = 100.0
"""CLIP's published logit scale, for features that come without one."""


@dataclass(frozen=True)
class TextFeatures:
    """Text features of classes.

    Attributes
    ----------
    name : str
        Where they come from, for messages.
    features : ndarray
        As they are in the file. (C, P, D), (C, D) or (D, C)
    class_names : tuple of str
        Empty if the file has none. (C,)
    sentences : tuple of tuple of str
        Empty if the file has none. (C, P)
    logit_scale, logit_bias : float or None
        The encoder's; None if the file has none.
    """

    name: str
    features: NDArray[Any]
    class_names: tuple[str, ...] = ()
    sentences: tuple[tuple[str, ...], ...] = ()
    logit_scale: float | None = None
    logit_bias: float | None = None

    @property
    def has_text(self) -> bool:
        """Whether there is a text at all: (C, 0, D) has none."""
        return self.features.ndim != 3 or bool(self.features.shape[1])

    def oriented(self, width: int) -> NDArray[np.float32]:
        """The features with the axes in cafe's order. (C, P, D)

        Raises
        ------
        CacheFormatError
            If no axis is as wide as the image features, or a number is not finite.
        """
        text = self.features
        if not self.has_text:
            return text.astype(np.float32)
        if text.dtype.kind != "f" or text.ndim not in (2, 3) or not text.size:
            raise CacheFormatError(
                f"{self.name} must be floats (C, P, {width}) or (C, {width}); found {text.dtype} "
                f"{text.shape}."
            )
        if text.shape == (width, width):
            raise CacheFormatError(
                f"{self.name} {text.shape} may have a row or a column for each class; save it as "
                f"({width}, 1, {width}), which has a row."
            )
        if text.ndim == 2 and text.shape[0] == width:
            text = text.T  # Tip-Adapter keeps one column per class
        if text.shape[-1] != width:
            raise CacheFormatError(
                f"{self.name} {self.features.shape} must be as wide as the image features, "
                f"(C, P, {width}) or (C, {width}); give those of the same encoder."
            )
        prompts = text[:, None] if text.ndim == 2 else text  # (C, P, D)
        checked = finite(self.name, prompts).astype(np.float32)
        empty = np.flatnonzero(~checked.any(axis=(1, 2)))
        if len(empty):
            raise CacheFormatError(
                f"{self.name} of class {empty[0]} are all zeros; give each class a text."
            )
        return checked


def read_text_features(file: Path) -> TextFeatures:
    """Read text features from an npz, npy or pt file.

    Raises
    ------
    InputError
        If there is no such file, or it has another suffix.
    CacheFormatError
        If it holds no array of numbers.
    """
    if file.suffix == ".npz":
        arrays = read_npz(file, ("text_prompts", "class_names", "logit_scale"))
        if "text_prompts" not in arrays:
            found = ", ".join(sorted(arrays))
            raise CacheFormatError(f"'{file}' has no text_prompts; found {found}.")
        return text_of_npz(file, arrays)
    return TextFeatures(f"'{file}'", read_array(file))


def text_of_npz(file: Path, arrays: dict[str, NDArray[Any]]) -> TextFeatures:
    """The text features in an npz file, of no prompt if it has none, with names and scale."""
    names, scale = arrays.get("class_names", np.empty(0, str)), arrays.get("logit_scale")
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise CacheFormatError(
            f"'{file}': class_names must be text (C,); found {names.dtype} {names.shape}."
        )
    if scale is not None and (scale.size != 1 or scale.dtype.kind not in "fiu"):
        raise CacheFormatError(
            f"'{file}': logit_scale must be one number; found {scale.shape} {scale.dtype}."
        )
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "surrogateescape")
    return TextFeatures(
        f"'{file}': text_prompts",
        arrays.get("text_prompts", np.zeros((len(names), 0, 1), np.float32)),
        tuple(map(str, names.tolist())),
        logit_scale=None if scale is None else float(scale.item()),
    )


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read class names: a JSON list, or one per line.

    Raises
    ------
    InputError
        If there is no such file, or it holds no names.
    """
    text = read_text(file, InputError)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text) if file.suffix == ".json" else lines
    except (ValueError, RecursionError):  # not JSON
        names = None
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(
            f"'{file}' is no list of class names; give one per line, or as JSON "
            '["cat", "dog", ...].'
        )
    return tuple(names)


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

    @property
    def has_text(self) -> bool:
        """Whether there is text of the classes."""
        return bool(self.text_features.shape[1])


def _no_text(names: int, splits: Mapping[str, SplitFeatures]) -> NDArray[np.float32]:
    """Texts of no prompt, for as many classes as have a name, or as the labels need. (C, 0, D)"""
    some = splits.values()
    labels = [each.class_count or int(each.labels.max(initial=0)) + 1 for each in some if not names]
    return np.zeros((names or max(labels), 0, next(iter(some)).width), np.float32)


def make_class_list(options: ImportOptions, features: FeatureSet) -> ClassList:
    """Combine what the user gave with what the features came with; the user's comes first.

    Raises
    ------
    CacheFormatError
        If text features have another width than the image features, or the number of
        class names differs.
    """
    texts = options.text or features.text
    if texts is None or not texts.has_text:
        known = len(options.class_names or features.class_names)
        known = known or len(texts.class_names if texts else ())
        none = _no_text(known, features.splits)
        texts = replace(texts or TextFeatures(f"'{features.source}'", none), features=none)
    text = texts.oriented(features.width)  # (C, P, D)
    names = options.class_names or texts.class_names or features.class_names
    names = names or tuple(f"class {number}" for number in range(len(text)))
    if len(names) != len(text):
        raise CacheFormatError(
            f"{texts.name} has {counted(len(text), 'class')} and there {verb(len(names), 'are')} "
            f"{counted(len(names), 'class name')}; "
            "give as many, in the order of the labels."
        )
    if len(text) < 2:
        raise CacheFormatError(
            f"{texts.name} has {counted(len(text), 'class')}; at least 2 are needed."
        )
    if faults := list(filter(None, map(name_fault, names))):
        raise CacheFormatError(f"{faults[0]}.")
    prompts = range(text.shape[1])
    sentences = texts.sentences or tuple(
        tuple(f"{name} (imported prompt {number})" for number in prompts) for name in names
    )
    scale = texts.logit_scale if options.logit_scale is None else options.logit_scale
    if scale is not None and not 0 < scale < np.inf:
        raise CacheFormatError(f"{texts.name} have a logit_scale of {scale}; it must be above 0.")
    scale = CLIP_SCALE if scale is None else scale
    return ClassList(names, sentences, text, scale, texts.logit_bias)
