"""Whether images' files are still those that were encoded: by their times, else by digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.dataset import Dataset
from cafe.datasets.open_image import FileState
from cafe.store import FILE_STATE, FeatureCache

_SOME = 4096  # files that are looked at together


def state_array(states: Iterable[FileState]) -> NDArray[np.void]:
    """States as a cache holds them. (n,) `FILE_STATE`"""
    rows = [(np.frombuffer(state.sha256, np.uint8), *state[1:]) for state in states]
    return np.array(rows, FILE_STATE)


def touched_files(
    dataset: Dataset, ids: Sequence[str], states: NDArray[np.void]
) -> dict[str, FileState]:
    """The states now of those of some files whose size, times or inode differ; no other is read.

    Parameters
    ----------
    dataset : Dataset
    ids : sequence of str
        (n,)
    states : ndarray
        What they were. (n,) `FILE_STATE`
    """
    then = np.stack([states[name] for name in ("size", "mtime_ns", "ctime_ns", "inode")], axis=1)
    now = np.array([dataset.quick_state(name) for name in ids], np.int64).reshape(-1, 4)
    is_touched = (then != now).any(axis=1)
    return {ids[row]: dataset.state(ids[row]) for row in np.flatnonzero(is_touched).tolist()}


def changed_files(dataset: Dataset, ids: Sequence[str], states: NDArray[np.void]) -> list[str]:
    """Those of some files that have other content than they had; see `touched_files`."""
    digests = dict(zip(ids, states["sha256"], strict=True))
    touched = touched_files(dataset, ids, states).items()
    return [name for name, state in touched if state.sha256 != digests[name].tobytes()]


def changed_images(cache: FeatureCache, dataset: Dataset) -> list[str] | None:
    """Ids of a dataset's images whose files are not those that a cache of it was made of.

    Parameters
    ----------
    cache : FeatureCache
        Of the same images by name.
    dataset : Dataset

    Returns
    -------
    list of str or None
        None where the cache does not know: its images are no files, or an older cafe made it.
    """
    header = cache.header
    if not dataset.knows_content or header.skipped_files is None:
        return None
    skipped = {row[:2] for row in header.skipped}
    changed = changed_files(dataset, [name for _, name, _ in header.skipped], header.skipped_files)
    for split in cache.counts:
        states = cache.files(split)
        assert states is not None  # all splits have them, or none  # noqa: S101
        names = (i.id for i in dataset.splits[split] if (split, i.id) not in skipped)
        for start in range(0, len(states), _SOME):
            some = list(islice(names, _SOME))
            changed += changed_files(dataset, some, states[start : start + _SOME])
    return changed
