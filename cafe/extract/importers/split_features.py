"""The images of one split of imported features, in the order of their file or files."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError
from cafe.extract.importers.arrays import finite
from cafe.extract.importers.classes import ClassList
from cafe.extract.importers.npz_array import NpzArray
from cafe.store import Block

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Shard:
    """Rows of one array, which may be mapped from a file, or stay in an archive.

    Attributes
    ----------
    features : ndarray or NpzArray
        (n, D)
    rows : ndarray or None
        Which rows; None is all, as of an `NpzArray`. (m,)
    """

    features: NDArray[Any] | NpzArray
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.features if self.rows is None else self.rows)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows in order, `_BLOCK_ROWS` at a time."""
        if isinstance(self.features, NpzArray):
            yield from self.features.blocks(_BLOCK_ROWS)
            return
        for start in range(0, len(self), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            yield self.features[block if self.rows is None else self.rows[block]]


@dataclass(frozen=True)
class SplitFeatures:
    """The images of one split; checks that features and labels fit each other.

    Attributes
    ----------
    source : Path
        The file or folder that is imported, for messages.
    names : (str, str)
        Names of features and labels in the source, for messages.
    labels : ndarray
        (N,) or (N, 1)
    shards : sequence of Shard
        The features, one shard after the other.
    ids : sequence of str
        Names of the images; empty if they have none. (N,)
    class_count : int or None
        How many classes the labels are for; None if they do not say.

    Raises
    ------
    CacheFormatError
        If features and labels do not fit, or there are none.
    """

    source: Path
    names: tuple[str, str]
    labels: NDArray[Any]
    shards: Sequence[Shard]
    ids: Sequence[str] = ()
    class_count: int | None = None

    def __post_init__(self) -> None:
        source, (what, label_name), labels = self.source, self.names, self.labels
        for array in (shard.features for shard in self.shards):
            if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] != self.width:
                raise CacheFormatError(
                    f"'{source}': {what} must be floats (N, D), all of one width; found "
                    f"{array.dtype} {array.shape}."
                )
        count = sum(map(len, self.shards))
        if labels.shape not in ((count,), (count, 1)):
            is_table = labels.ndim == 2 and len(labels) == count
            advice = "; of one-hot rows save argmax(1)" if is_table else ""
            raise CacheFormatError(
                f"'{source}': {what} ({count},) need as many {label_name}; found {labels.shape}"
                f"{advice}."
            )
        if not count:
            raise CacheFormatError(f"'{source}': {what} hold no image; leave them out.")
        if len(set(self.ids)) < len(self.ids):
            twice = collections.Counter(self.ids).most_common(1)[0][0]
            raise CacheFormatError(
                f"'{source}': {what} hold '{twice}' twice; name each image once."
            )

    @property
    def width(self) -> int:
        """Feature width D."""
        return int(self.shards[0].features.shape[1])

    def check_classes(self, classes: ClassList) -> None:
        """Check that labels and width fit the classes.

        Raises
        ------
        CacheFormatError
            If they do not.
        """
        labels, (count, _, width) = self.labels, classes.text_features.shape
        is_whole = labels.dtype.kind in "iu"
        if not is_whole or not 0 <= labels.min() <= labels.max() < count:
            extent = f" from {labels.min()} to {labels.max()}" if is_whole else ""
            from_one = is_whole and labels.min() > 0 and labels.max() == count
            raise CacheFormatError(
                f"'{self.source}': {self.names[1]} must be integers from 0 to {count - 1}, one "
                f"for each of the {count} class_names; found {labels.dtype}{extent}"
                f"{'; count from 0' if from_one else ''}."
            )
        if self.class_count not in (None, count):
            raise CacheFormatError(
                f"'{self.source}': {self.names[1]} are for {self.class_count} classes and there "
                f"are {count} class_names; give text features and names of just these."
            )
        if self.width != width:
            raise CacheFormatError(
                f"'{self.source}': {self.names[0]} must be floats (N, {width}) as wide as "
                f"text_prompts; found width {self.width}."
            )

    def blocks(self, split: str) -> Iterator[Block]:
        """The images in order, a few thousand at a time; their numbers are checked."""
        is_half = all(shard.features.dtype == np.float16 for shard in self.shards)
        labels = self.labels.reshape(-1).astype(np.int32)  # (N,)
        start = 0
        for array in (array for shard in self.shards for array in shard.blocks()):  # (n, D)
            rows = range(start, start + len(array))
            features = finite(f"'{self.source}': {self.names[0]}", array)
            # images without names get one from their place, which import after import is the same
            yield Block(
                [self.ids[r] if self.ids else f"{self.source.stem}/{split}/{r}" for r in rows],
                labels[rows.start : rows.stop],
                features if is_half else features.astype(np.float32),
            )
            start = rows.stop
