"""What has changed in a dataset since a cache of it was made, by the content of its images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

from cafe.datasets.dataset import Dataset
from cafe.datasets.make_split import keep_splits
from cafe.datasets.open_image import NO_STATE, FileState
from cafe.extract.file_states import touched_files
from cafe.store import FILE_STATE, FeatureCache


@dataclass(frozen=True)
class Changes:
    """How many images differ from those of the cache that was there.

    Attributes
    ----------
    added, removed : int
    replaced : int
        Of the same name and another content.
    relabelled : int
        Of the same content in another class, under whatever name.
    moved : int
        Of the same content and class under another name or in another split.
    kept : int
        As they were.
    """

    added: int = 0
    removed: int = 0
    replaced: int = 0
    relabelled: int = 0
    moved: int = 0
    kept: int = 0

    def __str__(self) -> str:
        """`3 added, 1 removed, 2 relabelled`; an empty text where nothing has changed."""
        named = [(getattr(self, kind.name), kind.name) for kind in fields(self)[:-1]]
        return ", ".join(f"{count:,} {name}" for count, name in named if count)

    @property
    def words(self) -> list[str]:
        """What has changed, and how many images have not; empty where there was no cache."""
        kept = f"{self.kept:,} as {'it was' if self.kept == 1 else 'they were'}"
        return [str(self) or "no image has changed", kept] if self.total else []

    @property
    def total(self) -> int:
        """Images counted: none where there was no cache."""
        return sum(getattr(self, kind.name) for kind in fields(self))


class Place(NamedTuple):
    """Where a cache holds the feature of an image."""

    split: str
    row: int


@dataclass(frozen=True)
class DatasetDiff:
    """How a dataset differs from a cache of it.

    Attributes
    ----------
    dataset : Dataset
        Where cafe makes the split, with every image in the one that it has in the cache.
    changes : Changes
    places : mapping of str to Place
        Id of an image -> its feature in the cache; images that are to be encoded are not in it.
    states : mapping of str to FileState
        Id -> the state of its file, where that is not what the cache knows.
    renamed : mapping of str to str
        Name of a class in the cache -> its name now, where its images are the same by name.
    """

    dataset: Dataset
    changes: Changes
    places: Mapping[str, Place]
    states: Mapping[str, FileState]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_other_dataset(self) -> bool:
        """Whether cache and dataset share so few images that they are hardly the same dataset."""
        before = self.changes.total - self.changes.added
        now = sum(map(len, self.dataset.splits.values()))
        return 2 * len(self.places) < min(before, now)


class _Known(NamedTuple):
    """What a cache knows of an image. One that could not be read has no row and no class."""

    split: str
    row: int
    class_name: str
    state: np.void

    @property
    def digest(self) -> bytes:
        return self.state["sha256"].tobytes()  # type: ignore[no-any-return]


_UNREAD = -1  # row of an image that could not be read


def cached_splits(cache: FeatureCache) -> dict[str, str]:
    """The split of every image of a cache, also of those that could not be read."""
    skipped = {name: split for split, name, _ in cache.header.skipped}
    return skipped | {name: split for split in cache.counts for name in cache.ids(split)}


def compare_with_cache(cache: FeatureCache, dataset: Dataset) -> DatasetDiff | None:
    """Compare the images of a dataset with those of a cache.

    A file is read only where its size, times or inode are not what the cache knows, or where its
    name is new and its size is that of an image in the cache.

    Returns
    -------
    DatasetDiff or None
        None where it cannot be told: the images are no files, an older cafe made the cache, or two
        images share an id.
    """
    names = [item.id for items in dataset.splits.values() for item in items]
    if not dataset.knows_content or cache.header.skipped_files is None:
        return None
    known = dict(_known(cache))
    total = sum(cache.counts.values()) + len(cache.header.skipped)
    if len(known) < total or len(set(names)) < len(names):
        return None
    now = _states_now(dataset, known)
    origins = _origins(names, known, now)
    dataset = keep_splits(dataset, {name: known[origin].split for name, origin in origins.items()})
    renamed = _renamed(cache, dataset, known)
    changes = _count(dataset, known, origins, now, renamed)
    return DatasetDiff(dataset, changes, _places(cache, dataset, known, now), now, renamed)


def _known(cache: FeatureCache) -> Iterator[tuple[str, _Known]]:
    header = cache.header
    for split in cache.counts:
        states = cache.files(split)
        assert states is not None  # all splits have them, or none  # noqa: S101
        rows = zip(cache.ids(split), cache.labels(split), states, strict=True)
        for row, (name, label, state) in enumerate(rows):
            yield name, _Known(split, row, header.class_names[label], state)
    for (split, name, _), state in zip(header.skipped, header.skipped_files, strict=True):  # type: ignore[arg-type]
        yield name, _Known(split, _UNREAD, "", state)


def _states_now(dataset: Dataset, known: Mapping[str, _Known]) -> dict[str, FileState]:
    """States of files that are not as a cache knows them, and of new ones that it may know."""
    items = [item for items in dataset.splits.values() for item in items]
    same = [item.id for item in items if item.id in known]
    now = touched_files(dataset, same, np.array([known[name].state for name in same], FILE_STATE))
    sizes = {int(image.state["size"]) for image in known.values()}
    new = [item.id for item in items if item.id not in known and item.size in sizes]
    return now | {name: dataset.state(name) for name in new}


def _origins(
    names: list[str], known: Mapping[str, _Known], now: Mapping[str, FileState]
) -> dict[str, str]:
    """Id of an image -> its id in the cache: the same, or one that is gone, of the same content."""
    there, gone = set(names), defaultdict(list)
    for name, image in known.items():
        if name not in there:
            gone[image.digest].append(name)
    gone.pop(NO_STATE.sha256, None)
    origins = {}
    for name in names:
        if name in known:
            origins[name] = name
        elif name in now and gone.get(now[name].sha256):
            origins[name] = gone[now[name].sha256].pop(0)
    return origins


def _renamed(cache: FeatureCache, dataset: Dataset, known: Mapping[str, _Known]) -> dict[str, str]:
    """Classes that are gone and whose images, by their ids, are those of one new class."""
    now: dict[str, set[str]] = defaultdict(set)
    for item in (item for items in dataset.splits.values() for item in items):
        if item.id in known:
            now[known[item.id].class_name].add(dataset.class_names[item.label])
    return {
        name: next(iter(names))
        for name, names in now.items()
        if name not in ("", *dataset.class_names)
        and len(names) == 1
        and names.isdisjoint(cache.header.class_names)
    }


def _count(
    dataset: Dataset,
    known: Mapping[str, _Known],
    origins: Mapping[str, str],
    now: Mapping[str, FileState],
    renamed: Mapping[str, str],
) -> Changes:
    kinds: Counter[str] = Counter()
    for split, items in dataset.splits.items():
        for item in items:
            if item.id not in origins:
                kinds["added"] += 1
                continue
            before, name = known[origins[item.id]], dataset.class_names[item.label]
            if item.id in now and now[item.id].sha256 != before.digest:
                kinds["replaced"] += 1
            elif (
                before.row != _UNREAD and renamed.get(before.class_name, before.class_name) != name
            ):
                kinds["relabelled"] += 1
            elif (origins[item.id], before.split) != (item.id, split):
                kinds["moved"] += 1
            else:
                kinds["kept"] += 1
    return Changes(**kinds, removed=len(known) - len(origins))


def _places(
    cache: FeatureCache,
    dataset: Dataset,
    known: Mapping[str, _Known],
    now: Mapping[str, FileState],
) -> dict[str, Place]:
    by_digest = {image.digest: name for name, image in known.items() if image.row != _UNREAD}
    by_digest.pop(NO_STATE.sha256, None)
    places = {}
    for split, items in dataset.splits.items():
        for item in items:
            is_same = item.id in known and (
                item.id not in now or now[item.id].sha256 == known[item.id].digest
            )
            other = by_digest.get(now[item.id].sha256) if item.id in now else None
            source = item.id if is_same else other
            if source is None or known[source].row == _UNREAD:
                continue
            # augmented views are drawn by the id, and made of training images alone
            if cache.views == 1 or (source, known[source].split) == (item.id, split):
                places[item.id] = Place(known[source].split, known[source].row)
    return places
