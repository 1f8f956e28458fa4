"""Several caches of the same images as one: every image's features of all encoders, side by side.

The features of an image are joined to one row, in the order of the caches. What is fitted on them
takes them apart again: features of different encoders lie in different spaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.errors import InputError, counted, verb
from cafe.features.pool import Pool, describe_pool
from cafe.features.task import StoredFeatures, Task, load_task
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.store import SPLITS, FeatureCache, Header
from cafe.store.paths import cache_name

Rows = Mapping[str, NDArray[np.int64]]
"""Of each split the rows of a cache whose images all caches have, in one order."""


@dataclass(frozen=True)
class JoinedText(ClassText):
    """The text of the classes under several encoders; its own features are none, (C, 0, D).

    Attributes
    ----------
    parts : tuple of ClassText
        One for each encoder.
    encoders : tuple of str
        Their names.
    """

    parts: tuple[ClassText, ...] = ()
    encoders: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[ClassText, ...]:
        """See `ClassText.each`."""
        return self.parts

    def to(self, device: torch.device | str) -> JoinedText:
        """The same text on another device."""
        parts = tuple(part.to(device) for part in self.parts)
        return replace(self, features=self.features.to(device), parts=parts)


def take_apart(train: TrainingSet) -> list[TrainingSet]:
    """A training set of joined features as one for each encoder."""
    text = train.text
    columns = split_columns(train.features, [part.features.shape[-1] for part in text.each])
    return [TrainingSet(some, part) for some, part in zip(columns, text.each, strict=True)]


def split_columns(features: Features, widths: Sequence[int]) -> list[Features]:
    """Joined features as those of each encoder, of these widths."""
    x = torch.split(features.x, list(widths), dim=-1)
    views: Sequence[Tensor | None] = [None] * len(x)
    if features.views is not None:
        views = torch.split(features.views, list(widths), dim=-1)
    groups = features.groups
    return [Features(part, features.y, v, groups=groups) for part, v in zip(x, views, strict=True)]


class JoinedFeatures(StoredFeatures):
    """Features of a split under several encoders; augmented views where all have as many."""

    def __init__(self, parts: Sequence[StoredFeatures]) -> None:
        self._parts, self._rows, self.y = parts, None, parts[0].y

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """See `StoredFeatures.groups`."""
        return self._parts[0].groups

    def _read(self, rows: Tensor | None) -> Features:
        read = [part.whole if rows is None else part[rows] for part in self._parts]
        views = [part.views for part in read if part.views is not None]
        alike = len(views) == len(read) and len({part.shape[1] for part in views}) == 1
        x = torch.cat([part.x for part in read], dim=1)  # (n, D)
        joined = torch.cat(views, dim=-1) if alike else None
        return Features(x, read[0].y, joined, groups=read[0].groups)


@dataclass(frozen=True)
class JoinedCaches:
    """Several caches of the same images, which a study takes for one.

    Attributes
    ----------
    caches : sequence of FeatureCache
    rows : sequence of Rows
        Of each cache.
    header : Header
        That of the first, with the names and keys of all encoders.
    notes : tuple of str
        How images were matched, a sentence each.
    """

    caches: Sequence[FeatureCache]
    rows: Sequence[Rows]
    header: Header
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file of the first."""
        return self.caches[0].path

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split that all have."""
        return {split: len(rows) for split, rows in self.rows[0].items()}

    @property
    def width(self) -> int:
        """Width of the joined features."""
        return sum(cache.width for cache in self.caches)

    def ids(self, split: str, rows: slice = slice(None)) -> tuple[str, ...]:
        """Names of the images of a split, as the first cache has them."""
        names = self.caches[0].ids(split)
        return tuple(names[row] for row in self.rows[0][split][rows])

    def test_pool(self) -> Pool:
        """The joined features of the test split, without its labels.

        Raises
        ------
        InputError
            If there is no such split.
        """
        if "test" not in self.counts:
            raise InputError(f"{_all_names(self.caches)} have no test split to take for a pool.")
        tests = self.counts["test"]
        x = self.task().splits["test"].x
        return Pool(x, describe_pool(tests, tests, tests))

    def task(self) -> Task:
        """The joined features as tensors."""
        tasks = [load_task(cache) for cache in self.caches]
        parts = tuple(task.text for task in tasks)
        names = tuple(self.header.class_names)
        encoders = tuple(f"{task.model}.{task.pretrained}" for task in tasks)
        none = torch.zeros(len(names), 0, self.width)
        splits = {
            split: JoinedFeatures(
                [
                    StoredFeatures(cache, split, torch.from_numpy(rows[split]))
                    for cache, rows in zip(self.caches, self.rows, strict=True)
                ]
            )
            for split in self.counts
        }
        text = JoinedText(none, names, 1.0, 0.0, parts, encoders)
        header, noun = self.header, self.caches[0].noun
        return Task(header.dataset, header.model, header.pretrained, text, splits, noun=noun)


def join_caches(caches: Sequence[FeatureCache]) -> JoinedCaches:
    """Match the images of several caches by their ids.

    Imported images that have no names are matched by their place, which is what their ids say.

    Parameters
    ----------
    caches : sequence of FeatureCache
        Of one dataset under different encoders, at least two.

    Raises
    ------
    InputError
        If they are of different datasets or classes, one is named twice, no image is in all of
        them, or labels or splits of an image differ.
    """
    _check_alike(caches)
    names = [_names(cache) for cache in caches]
    rows: list[dict[str, list[int]]] = [{} for _ in caches]
    for name, (split, _) in names[0].items():
        places = [some[name] for some in names if name in some]
        if len(places) < len(names):
            continue
        for other, place, cache in zip(rows, places, caches, strict=True):
            if place[0] != split:
                raise InputError(
                    f"'{name}' is in {split} of {_name(caches[0])} and in {place[0]} of "
                    f"{_name(cache)}; extract both with one split."
                )
            other.setdefault(split, []).append(place[1])
    if not rows[0]:
        raise InputError(f"no image is in all of {_all_names(caches)}: their ids differ.")
    arrays = [{s: np.array(some[s], np.int64) for s in SPLITS if s in some} for some in rows]
    _check_labels(caches, arrays)
    return JoinedCaches(caches, arrays, _header(caches), _notes(caches, arrays))


def _name(cache: FeatureCache) -> str:
    return cache_name(cache.path)


def _all_names(caches: Sequence[FeatureCache]) -> str:
    return ", ".join(map(_name, caches))


def _check_alike(caches: Sequence[FeatureCache]) -> None:
    first = caches[0]
    for place, other in enumerate(caches[1:], start=1):
        if other.header.dataset != first.header.dataset:
            raise InputError(
                f"{_name(first)} and {_name(other)} are of different datasets; one head takes "
                "caches of the same images under different encoders ('cafe compare' takes both)."
            )
        if other.content_sha256 in {cache.content_sha256 for cache in caches[:place]}:
            raise InputError(f"{_name(other)} is named twice, or is a copy; name each cache once.")
        pair = [list(cache.header.class_names) for cache in (first, other)]
        if len(pair[0]) != len(pair[1]) or not (pair[0] == pair[1] or any(map(_are_numbers, pair))):
            raise InputError(
                f"{_name(first)} and {_name(other)} have different classes, or in another order; "
                "one head takes caches of the same classes."
            )


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether an import without names has numbered the classes."""
    return list(names) == [f"class {number}" for number in range(len(names))]


def _names(cache: FeatureCache) -> dict[str, tuple[str, int]]:
    """Of every image its split and row, by its name."""
    stem = re.escape(Path(str(cache.header.key.get("imported_from", ""))).stem)
    places = {}
    for split in cache.counts:
        own = re.compile(rf"{stem}/({split}/[0-9]+)")  # an import names images by their place
        for row, name in enumerate(cache.ids(split)):
            match = own.fullmatch(name)
            places[match[1] if match else name] = (split, row)
    return places


def _check_labels(caches: Sequence[FeatureCache], rows: Sequence[Rows]) -> None:
    first = caches[0]
    for split in rows[0]:
        y = first.labels(split)[rows[0][split]]
        for cache, own in zip(caches[1:], rows[1:], strict=True):
            differ = np.flatnonzero(cache.labels(split)[own[split]] != y)
            if len(differ):
                name = first.ids(split)[int(rows[0][split][differ[0]])]
                raise InputError(
                    f"{counted(len(differ), 'label')} of {split} {verb(len(differ), 'are')} "
                    f"different in {_name(first)} and {_name(cache)}, that of '{name}' first; "
                    "extract both from the same images."
                )


def _header(caches: Sequence[FeatureCache]) -> Header:
    headers = [cache.header for cache in caches]
    named = next((h for h in headers if not _are_numbers(list(h.class_names))), headers[0])
    *others, last = headers
    model = "+".join([*(f"{h.model}.{h.pretrained}" for h in others), last.model])
    keys = [
        {"model": h.model, "pretrained": h.pretrained, "cache_key": dict(h.key)} for h in headers
    ]
    return replace(
        headers[0],
        class_names=named.class_names,
        model=model,
        pretrained=last.pretrained,
        key={"encoders": keys},
    )


def _notes(caches: Sequence[FeatureCache], rows: Sequence[Rows]) -> tuple[str, ...]:
    matched = sum(map(len, rows[0].values()))
    lines = [
        f"One head over {len(caches)} encoders of the same {counted(matched, 'image')}: "
        f"{_all_names(caches)}."
    ]
    for cache in caches:
        left = sum(cache.counts.values()) - matched
        if left:
            lines.append(
                f"{counted(left, 'image')} of {_name(cache)} {verb(left, 'are')} left out: not in "
                "all caches."
            )
    if len(lines) > 1 and any(f"{split}/0" in _names(caches[0]) for split in rows[0]):
        lines.append(
            "Images without names are matched by their place: what is left out must be at the end "
            "of a split."
        )
    return tuple(lines)
