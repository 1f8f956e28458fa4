"""Reading a cache file: its header at once, its features when asked for, nothing unchecked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cafe.errors import InputError
from cafe.store.header import SPLITS, Block, Header, SplitArrays
from cafe.store.interop import CacheInterop
from cafe.store.key import noun_of
from cafe.store.open_file import (
    FileState,
    file_state,
    open_checked,
    read_array,
    read_header,
    require_finite,
)
from cafe.store.packed_text import unpack_text
from cafe.store.paths import find_caches
from cafe.store.rows import read_rows
from cafe.store.schema import get_text, slabs
from cafe.store.structure import InvalidFileError


@dataclass(frozen=True, repr=False)
class FeatureCache(CacheInterop):
    """A cache file: its header in memory, its features read when asked for.

    Attributes
    ----------
    path : Path
    header : Header
    counts : mapping of str to int
        Images per split.
    width : int
        Feature width D.
    dtype : str
        Type of the stored image features.
    views : int
        Augmented views per training image, 1 where there are none.
    spatial_size : int
        T, positions of an image's spatial map, 0 where there are none.
    pre_projection_size : int
        E, width of the features before the tower's last projection, 0 where there are none.
    content_sha256 : str
        Digest of all that counts in the file: equal for equal features, whenever they were made.

    Examples
    --------
    >>> cache = cafe.FeatureCache.open("digits/nano.glyphs")
    >>> cache.width, cache.header.dataset
    (512, 'digits')
    """

    path: Path
    header: Header
    counts: Mapping[str, int]
    width: int
    dtype: str
    views: int
    spatial_size: int
    pre_projection_size: int
    content_sha256: str
    _state: FileState = field(repr=False)

    @classmethod
    def open(
        cls,
        cache: FeatureCache | Path | str | None = None,
        *,
        cache_folder: Path | str | None = None,
    ) -> FeatureCache:
        """Open a cache, check its form and its header; no features are read.

        Parameters
        ----------
        cache : FeatureCache, Path or str, optional
            The HDF5 file, or the name of a cache in the cache folder (`digits/nano.glyphs`). None
            takes the newest of the folder. A cache that is open already is returned as it is.
        cache_folder : Path or str, optional
            Where names are looked up; None takes `$CAFE_CACHE`, else `./cache`.

        Raises
        ------
        CacheNotFoundError
            If there is no such cache.
        UnknownNameError
            If the name is not among the caches of the folder; the nearest are suggested.
        CacheFormatError
            If it is no cafe file, is truncated or damaged, or has a newer format.
        """
        if isinstance(cache, FeatureCache):
            return cache
        path = find_caches(cache_folder, cache)[0]
        with open_checked(path) as file:
            state = file_state(path)  # what was checked: reads of the same state skip the check
            header = read_header(file)
            splits = {name: file["splits"][name] for name in SPLITS if name in file["splits"]}
            features = next(iter(splits.values()))["features"]  # (N, D)
            return cls(
                path=path,
                header=header,
                counts={name: len(group["labels"]) for name, group in splits.items()},
                width=int(features.shape[1]),
                dtype=str(features.dtype),
                views=max(
                    (g["views"].shape[1] for g in splits.values() if "views" in g), default=1
                ),
                spatial_size=max(
                    (g["spatial"].shape[1] for g in splits.values() if "spatial" in g), default=0
                ),
                pre_projection_size=file["projection"].shape[0] if "projection" in file else 0,
                content_sha256=get_text(file, "content_sha256"),
                _state=state,
            )

    def read(
        self,
        split: str,
        rows: ArrayLike | None = None,
        *,
        views: bool = True,
        dtype: DTypeLike | None = None,
    ) -> SplitArrays:
        """Read one split, or some rows of it, into memory.

        Beside what is returned, a few megabytes are held at a time.

        Parameters
        ----------
        split : {"train", "val", "test"}
        rows : array of int, optional
            Rows to read, in the order in which they are returned; None reads all.
        views : bool
            Whether to read the augmented views too.
        dtype : dtype, optional
            Type of the features that are returned; None keeps the stored one.

        Raises
        ------
        InputError
            If there is no such split or row.
        CacheFormatError
            If the split is damaged or disagrees with the header.
        """
        chosen = self._checked_rows(split, rows)
        with self._group(split) as group:
            labels = read_rows(group["labels"], chosen, np.int64)  # (n,)
            features = read_rows(group["features"], chosen, dtype)  # (n, D)
            wanted = views and "views" in group
            augmented = read_rows(group["views"], chosen, dtype) if wanted else None
            self._check_labels(split, labels)
        return SplitArrays(labels, features, augmented)

    def read_spatial_maps(
        self, split: str, rows: ArrayLike | None = None, *, dtype: DTypeLike | None = None
    ) -> NDArray[Any]:
        """Read spatial maps of one split; see `read`. (n, T, D)

        Raises
        ------
        InputError
            If there are none, or no such split or row.
        """
        chosen = self._checked_rows(split, rows)
        with self._group(split) as group:
            if "spatial" not in group:
                raise InputError(f"cache '{self.path}' has no spatial features of split '{split}'.")
            return read_rows(group["spatial"], chosen, dtype)

    def read_pre_projection(
        self, split: str, rows: ArrayLike | None = None, *, dtype: DTypeLike | None = None
    ) -> NDArray[Any]:
        """Read features before the last projection of one split; see `read`. (n, V, E)

        View 0 is the plain one. `header.projection` takes them to the features.

        Raises
        ------
        InputError
            If there are none, or no such split or row.
        """
        chosen = self._checked_rows(split, rows)
        with self._group(split) as group:
            if "pre_projection" not in group:
                raise InputError(f"cache '{self.path}' has no features before the projection.")
            return read_rows(group["pre_projection"], chosen, dtype)

    def labels(self, split: str) -> NDArray[np.int64]:
        """Class indices of one split. (N,)"""
        with self._group(split) as group:
            labels = read_rows(group["labels"], None, np.int64)
            self._check_labels(split, labels)
        return labels

    def ids(self, split: str, rows: slice = slice(None)) -> tuple[str, ...]:
        """Names of the images of one split, or of consecutive ones. (N,)"""
        with self._group(split) as group:
            return unpack_text(group["ids"][rows])

    def files(self, split: str) -> NDArray[np.void] | None:
        """States of the images' files, as `FILE_STATE`; None where they are not known. (N,)"""
        with self._group(split) as group:
            return read_array(group["files"]) if "files" in group else None

    def boxes(self, split: str) -> NDArray[np.void] | None:
        """The boxes that the items of a split are, as `BOX`; None where they are images. (N,)"""
        with self._group(split) as group:
            return read_array(group["boxes"]) if "boxes" in group else None

    @property
    def noun(self) -> str:
        """What its items are: "image", or "box"."""
        return noun_of(self.header.key)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image: of V features, before the projection too, and of a float16 map."""
        numbers = self.views * (self.width + self.pre_projection_size)
        return numbers * np.dtype(self.dtype).itemsize + 2 * self.width * self.spatial_size

    def blocks(self, split: str) -> Iterator[Block]:
        """All of one split in order, a few megabytes at a time."""
        with self._group(split) as group:
            parts = ("views", "spatial", "pre_projection")
            more = {name: group[name] for name in parts if name in group}
            boxes = group.get("boxes")
            for slab in slabs(self.counts[split], self.image_bytes):
                labels = group["labels"][slab]
                self._check_labels(split, labels)
                yield Block(
                    ids=unpack_text(group["ids"][slab]),
                    labels=labels,
                    features=require_finite(group["features"], group["features"][slab]),
                    **{name: require_finite(array, array[slab]) for name, array in more.items()},
                    boxes=None if boxes is None else boxes[slab],
                )

    def _checked_rows(self, split: str, rows: ArrayLike | None) -> NDArray[np.int64] | None:
        if split not in self.counts:
            raise InputError(
                f"cache '{self.path}' has no split '{split}'; it has {', '.join(self.counts)}."
            )
        if rows is None:
            return None
        chosen = np.asarray(rows, np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < self.counts[split]:
            raise InputError(
                f"split '{split}' of '{self.path}' has the rows 0 to {self.counts[split] - 1}; "
                f"asked for {chosen.min()} to {chosen.max()}."
            )
        return chosen

    @contextlib.contextmanager
    def _group(self, split: str) -> Iterator[h5py.Group]:
        self._checked_rows(split, None)
        with open_checked(self.path, self._state) as file:
            # rows of a new file under the header of the old one would be silently wrong
            if get_text(file, "content_sha256") != self.content_sha256:
                raise InvalidFileError("it was replaced by another while in use", "start again")
            yield file["splits"][split]

    def _check_labels(self, split: str, labels: NDArray[np.int64]) -> None:
        classes = len(self.header.class_names)  # a label indexes them, much later and elsewhere
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise InvalidFileError(
                f"split '{split}' has labels from {labels.min()} to {labels.max()} for {classes} "
                "class names"
            )
