"""Recomputing everything that a cache file claims of itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, counted
from cafe.progress import Progress
from cafe.store.header import SPLITS
from cafe.store.open_file import open_checked
from cafe.store.schema import array_bytes, get_text, is_finite, iter_datasets, row_bytes, slabs


@dataclass(frozen=True)
class Verification:
    """What a check of a whole cache found.

    Attributes
    ----------
    path : Path
    problems : tuple of str
        One sentence each; empty where all is well.
    bytes : int
        Bytes that were checked.
    seconds : float
    """

    path: Path
    problems: tuple[str, ...]
    bytes: int
    seconds: float


def verify_cache(path: Path, progress: Progress | None = None) -> Verification:
    """Check a whole cache: form, checksums, labels, finite features, unique names of images.

    Of features before the projection, that some images of each split are projected to theirs.

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called with the array's name, the bytes checked and the bytes in all.

    Returns
    -------
    Verification
        A few megabytes are held at a time, whatever the size of the file.

    Raises
    ------
    CacheNotFoundError
        If there is no such file.
    """
    start = time.perf_counter()
    problems: list[str] = []
    done, total = 0, path.stat().st_size if path.is_file() else 0
    try:
        with open_checked(path) as file:
            classes = len(file["class_names"])
            for name, dataset in iter_datasets(file):
                check = _ArrayCheck(name, classes)
                for slab in slabs(len(dataset), row_bytes(dataset)):
                    part = dataset[slab]
                    check.add(part)
                    done += part.nbytes
                    if progress is not None:
                        progress(name, done, total)
                problems += check.problems(get_text(dataset, "sha256"))
            problems += _unlike_projected(file)
    except CacheFormatError as error:
        problems.append(str(error))
    return Verification(path, tuple(problems), done, time.perf_counter() - start)


_SAMPLE = 64  # images of each split
_ROUNDING = {4: 1e-3, 2: 0.02}  # relative, by bytes of a number: of the encoder's own product


def _unlike_projected(file: h5py.File) -> Iterator[str]:
    """Splits in which the features before the projection are of other images."""
    if "projection" not in file:
        return
    weight, bias = file["projection"][:], file["projection_bias"][:]  # (E, D), (D,)
    for split, group in ((name, file["splits"][name]) for name in SPLITS if name in file["splits"]):
        x = group["features"][:_SAMPLE].astype(np.float32)
        h = group["pre_projection"][:_SAMPLE, 0].astype(np.float32)
        distance = np.linalg.norm(h @ weight + bias - x, axis=1) / np.linalg.norm(x, axis=1)
        if (distance > _ROUNDING[group["features"].dtype.itemsize]).any():
            yield f"'splits/{split}/pre_projection' does not give the features when projected."


class _ArrayCheck:
    """Checks one array, part by part."""

    def __init__(self, name: str, classes: int) -> None:
        self._name = name
        self._classes = classes
        self._digest = hashlib.sha256()
        self._bad = 0
        self._ids: list[NDArray[Any]] = []

    def add(self, part: NDArray[Any]) -> None:
        self._digest.update(array_bytes(part))
        if part.dtype.kind == "f" and not is_finite(part):  # counts only what is worth counting
            self._bad += int(np.count_nonzero(~np.isfinite(part)))
        elif self._name.endswith("/labels"):
            self._bad += int(np.count_nonzero((part < 0) | (part >= self._classes)))
        elif self._name.endswith("/ids"):
            self._ids.append(part)  # packed text: the only array that is held whole

    def problems(self, sha256: str) -> Iterator[str]:
        if self._digest.hexdigest() != sha256:
            yield f"'{self._name}' does not have its checksum."
        if self._bad:
            kind = (
                "labels without a class" if self._name.endswith("labels") else "values not finite"
            )
            yield f"'{self._name}' holds {self._bad:,} {kind}."
        if self._ids:
            ids, counts = np.unique(np.concatenate(self._ids), return_counts=True)
            repeated = ids[counts > 1]
            if len(repeated):
                example = repeated[0].decode("utf-8", "replace")
                yield (
                    f"'{self._name}' has {counted(len(repeated), 'name')} more than once, such as "
                    f"'{example}'."
                )
