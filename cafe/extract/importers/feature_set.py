"""Features of any origin in one form, checked, and written as a cache a few megabytes at a time."""

from __future__ import annotations

import collections
import datetime
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError
from cafe.extract.importers.arrays import finite
from cafe.extract.importers.class_list import Classes
from cafe.files import digest_of_file
from cafe.store import SPLITS, Block, FeatureCache, Header, write_cache
from cafe.store.key import Key, digest, digest_of_array
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
        Which of them; None is all. (m,)
    """

    features: NDArray[Any]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.features if self.rows is None else self.rows)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some at a time."""
        for start in range(0, len(self), _BLOCK_ROWS):
            some = slice(start, start + _BLOCK_ROWS)
            yield self.features[some if self.rows is None else self.rows[some]]


@dataclass(frozen=True)
class Images:
    """The images of one split, as they were found.

    Attributes
    ----------
    names : (str, str)
        What features and labels are called where they come from, for messages.
    labels : ndarray
        (N,)
    parts : sequence of Shard
        The features, one part after the other.
    ids : sequence of str
        Names of the images; empty where they came without. (N,)
    """

    names: tuple[str, str]
    labels: NDArray[Any]
    parts: Sequence[Shard]
    ids: Sequence[str] = ()

    @property
    def width(self) -> int:
        """D of a checked set of images."""
        return int(self.parts[0].features.shape[1])


@dataclass(frozen=True)
class FeatureSet:
    """All that a cache is made from.

    Attributes
    ----------
    source : Path
        What was imported.
    words : str
        What it is, for people.
    classes : Classes
    splits : mapping of str to Images
    files : sequence of Path
        Every file that was read: their content is part of the key.
    """

    source: Path
    words: str
    classes: Classes
    splits: Mapping[str, Images]
    files: Sequence[Path]


def check_images(source: Path, images: Images) -> Images:
    """Check that features and labels fit each other.

    Raises
    ------
    CacheFormatError
        If they do not, or there are none.
    """
    (what, label_name), labels = images.names, images.labels
    for given in (part.features for part in images.parts):
        if given.ndim != 2 or given.dtype.kind != "f" or given.shape[1] != images.width:
            raise CacheFormatError(
                f"'{source}': {what} must be floats (N, D), all of one width; found {given.dtype} "
                f"{given.shape}."
            )
    count = sum(len(part) for part in images.parts)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count:
        raise CacheFormatError(
            f"'{source}': {what} ({count},) need as many {label_name}; found {labels.shape}."
        )
    if not count:
        raise CacheFormatError(f"'{source}': {what} hold no image; leave them out.")
    if len(set(images.ids)) < len(images.ids):
        twice = collections.Counter(images.ids).most_common(1)[0][0]
        raise CacheFormatError(f"'{source}': {what} hold '{twice}' twice; name each image once.")
    return Images(images.names, labels, images.parts, images.ids)


def save(feature_set: FeatureSet, path: Path) -> FeatureCache:
    """Write what was gathered as a cache.

    Raises
    ------
    CacheFormatError
        If a label is out of range, splits differ in width, or a number is not finite; nothing is
        left.
    CacheError
        If the cache cannot be written.
    """
    classes, source, width = (
        feature_set.classes,
        feature_set.source,
        feature_set.classes.text.shape[2],
    )
    for images in feature_set.splits.values():
        _check_labels(source, images, len(classes.names))
        if images.width != width:
            raise CacheFormatError(
                f"'{source}': {images.names[0]} must be floats (N, {width}) as wide as "
                f"text_prompts; found width {images.width}."
            )
    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    header = Header(
        key=_key(feature_set),
        dataset=dataset,
        model=model,
        pretrained=pretrained,
        class_names=classes.names,
        sentences=classes.sentences,
        text_features=classes.text,
        logit_scale=classes.logit_scale,
        logit_bias=classes.logit_bias,
        source=feature_set.words,
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    present = [split for split in SPLITS if split in feature_set.splits]
    for split in present:  # every number is looked at before anything is written
        collections.deque(_blocks(source, split, feature_set.splits[split]), maxlen=0)
    write_cache(path, header, {s: _blocks(source, s, feature_set.splits[s]) for s in present})
    return FeatureCache.open(path)


def _check_labels(source: Path, images: Images, classes: int) -> None:
    labels = images.labels
    is_whole = labels.dtype.kind in "iu"
    if not is_whole or not 0 <= labels.min() <= labels.max() < classes:
        found = f" from {labels.min()} to {labels.max()}" if is_whole else ""
        raise CacheFormatError(
            f"'{source}': {images.names[1]} must be integers from 0 to {classes - 1}, one for each "
            f"of the {classes} class_names; found {labels.dtype}{found}."
        )


def _blocks(source: Path, split: str, images: Images) -> Iterator[Block]:
    half = all(part.features.dtype == np.float16 for part in images.parts)
    start = 0
    for part in images.parts:
        for given in part.blocks():
            rows = range(start, start + len(given))
            features = finite(f"'{source}': {images.names[0]}", given)
            yield Block(
                [images.ids[row] if images.ids else f"{source.stem}/{split}/{row}" for row in rows],
                images.labels[rows.start : rows.stop].astype(np.int32),
                features if half else features.astype(np.float32),
            )
            start = rows.stop


def _key(feature_set: FeatureSet) -> Key:
    """One file is known by its digest, several by the digest of theirs."""
    digests = {file.name: digest_of_file(file) for file in feature_set.files}
    one = next(iter(digests.values())) if len(digests) == 1 else digest(digests)
    return {
        "imported_from": feature_set.source.name,
        "imported_sha256": one,
        "text_sha256": digest_of_array(feature_set.classes.text),
    }
