"""Whether images' files are still those that were encoded: by their times, else by digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.dataset import Dataset
from cafe.datasets.open_image import NO_STATE, FileState, quick_state, state_now
from cafe.store import FILE_STATE, FeatureCache

_SOME = 4096  # files that are looked at together


def state_array(states: Iterable[FileState]) -> NDArray[np.void]:
    """States as a cache holds them. (n,) `FILE_STATE`"""
    rows = [(np.frombuffer(state.sha256, np.uint8), *state[1:]) for state in states]
    return np.array(rows, FILE_STATE)


def changed_files(root: Path, ids: Sequence[str], states: NDArray[np.void]) -> list[str]:
    """Those of some images whose files have other content than they had. A file is read only where
    its size, times or inode differ.

    Parameters
    ----------
    root : Path
    ids : sequence of str
        (n,)
    states : ndarray
        (n,) `FILE_STATE`
    """
    then = np.stack([states[name] for name in ("size", "mtime_ns", "ctime_ns", "inode")], axis=1)
    now = np.array([_quick_state(root / name) for name in ids], np.int64).reshape(-1, 4)
    is_touched = (then != now).any(axis=1).tolist()
    return [
        name
        for name, state, touched in zip(ids, states, is_touched, strict=True)
        if touched and state_now(root / name).sha256 != state["sha256"].tobytes()
    ]


def _quick_state(path: Path) -> tuple[int, int, int, int]:
    try:
        return quick_state(path)
    except OSError:
        return NO_STATE[1:]


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
    header, root = cache.header, dataset.root
    if root is None or header.skipped_files is None:
        return None
    skipped = {row[:2] for row in header.skipped}
    changed = changed_files(root, [name for _, name, _ in header.skipped], header.skipped_files)
    for split in cache.counts:
        states = cache.files(split)
        assert states is not None  # all splits have them, or none  # noqa: S101
        names = (i.id for i in dataset.splits[split] if (split, i.id) not in skipped)
        for start in range(0, len(states), _SOME):
            some = list(islice(names, _SOME))
            changed += changed_files(root, some, states[start : start + _SOME])
    return changed
