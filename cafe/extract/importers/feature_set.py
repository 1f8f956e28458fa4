"""Features of any origin in one form, checked, and written as a cache a few megabytes at a time."""

from __future__ import annotations

import collections
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError
from cafe.extract.importers.arrays import finite
from cafe.extract.importers.classes import ClassList, ImportOptions, TextFeatures, make_class_list
from cafe.files import digest_of_file
from cafe.store import SPLITS, Block, FeatureCache, Header, utc_now, write_cache
from cafe.store.key import Key, digest, digest_of_array, digest_of_names
from cafe.store.paths import cache_name

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Shard:
    """Rows of one array, which may be mapped from a file.

    Attributes
    ----------
    features : ndarray
        (n, D)
    rows : ndarray or None
        Which rows; None is all. (m,)
    """

    features: NDArray[Any]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.features if self.rows is None else self.rows)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows in order, `_BLOCK_ROWS` at a time."""
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
            raise CacheFormatError(
                f"'{source}': {what} ({count},) need as many {label_name}; found {labels.shape}."
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
            raise CacheFormatError(
                f"'{self.source}': {self.names[1]} must be integers from 0 to {count - 1}, one "
                f"for each of the {count} class_names; found {labels.dtype}{extent}."
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


@dataclass(frozen=True)
class FeatureSet:
    """What an importer reads.

    Attributes
    ----------
    source : Path
        The file or folder that is imported.
    description : str
        What the features are, for the cache's `source`.
    splits : mapping of str to SplitFeatures
    files : sequence of Path
        Every file that was read: their content is part of the cache's key.
    text : TextFeatures or None
        Text features in the source.
    class_names : tuple of str
        Class names in the source, in the order of the labels; empty if it has none.
    """

    source: Path
    description: str
    splits: Mapping[str, SplitFeatures]
    files: Sequence[Path]
    text: TextFeatures | None = None
    class_names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Feature width D of the first split."""
        return next(iter(self.splits.values())).width


def write_feature_set(features: FeatureSet, options: ImportOptions, path: Path) -> FeatureCache:
    """Write imported features as a cache.

    Raises
    ------
    InputError
        If there are no text features.
    CacheFormatError
        If classes do not fit, splits differ in width, or a number is not finite; nothing is
        written.
    CacheError
        If the cache cannot be written.
    """
    classes = make_class_list(options, features)
    splits = {split: features.splits[split] for split in SPLITS if split in features.splits}
    for images in splits.values():
        images.check_classes(classes)
    for split, images in splits.items():  # read every number once before anything is written
        collections.deque(images.blocks(split), maxlen=0)
    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    header = Header(
        key=_key(features, classes, options.label),
        dataset=dataset,
        model=model,
        pretrained=pretrained,
        **classes._asdict(),
        source=features.description,
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=utc_now(),
    )
    write_cache(path, header, {split: images.blocks(split) for split, images in splits.items()})
    return FeatureCache.open(path)


def _key(features: FeatureSet, classes: ClassList, label: str | None) -> Key:
    """One file is known by its digest, several files by the digest of their digests."""
    digests = {file.name: digest_of_file(file) for file in features.files}
    content = digest(digests) if len(digests) > 1 else next(iter(digests.values()))
    return {
        "imported_from": features.source.name,
        "imported_sha256": content,
        "text_sha256": digest_of_array(classes.text_features),
        "class_names_sha256": digest_of_names(classes.class_names),
        "logit_scale": classes.logit_scale,
        "logit_bias": classes.logit_bias,
        "label": label,
    }
