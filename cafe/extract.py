"""dataset x encoder -> cache file, once; knows neither methods nor the command line."""

from __future__ import annotations

import collections
import datetime
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cafe.datasets.base import SPLITS, Dataset, Item
from cafe.decoding import Decoded, Decoder, ahead
from cafe.encoders import Encoder
from cafe.errors import CacheFormatError, CacheMismatchError, DatasetError, InputError
from cafe.images import Augmentation
from cafe.key import Key, differences, digest_of_names
from cafe.partial import Failure, Partial
from cafe.store import Block, FeatureCache, Header, write_cache

Progress = Callable[[str, int, int], None]
"""Called with the split's name, the images done and the images in all, over all splits."""

BLOCK_IMAGES = 2048
"""Images per finished block: the most that an interrupted run has to encode again."""

_BATCH_PIXELS = 64 * 224 * 224  # a CPU is no faster with larger batches
_CUDA_FACTOR = 4
_LARGEST_BATCH = 512
_VERSIONS = ("cafe-clip", "open_clip_torch", "torch", "torchvision", "pillow", "h5py", "numpy")


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    path : Path
        The cache file.
    images : int
        Images encoded by this run; 0 where the cache was there.
    skipped : int
        Images that could not be read.
    seconds : float
        Time that encoding the images took.
    was_there : bool
        The same cache was there and nothing was done.
    """

    path: Path
    images: int
    skipped: int
    seconds: float
    was_there: bool = False


@dataclass(frozen=True)
class Options:
    """How an extraction runs.

    Attributes
    ----------
    augmentation : Augmentation
        Augmented views of the training images.
    on_error : {"skip", "fail"}
        What to do with an image that cannot be read: skip and record it, or stop.
    batch_size : int or None
        Images per forward pass; None fits it to the input size and the device.
    workers : int or None
        Threads that decode; None takes one per core, 16 at most.
    progress : callable or None
        Called after every batch.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    on_error: Literal["skip", "fail"] = "skip"
    batch_size: int | None = None
    workers: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        if self.augmentation.views < 1:
            raise InputError(f"views must be at least 1; got {self.augmentation.views}.")


class _Unit(NamedTuple):
    """A block's worth of items."""

    split: str
    number: int
    items: tuple[Item, ...]


def cache_key(
    dataset: Dataset,
    encoder: Encoder,
    sentences: Sequence[Sequence[str]],
    augmentation: Augmentation,
) -> Key:
    """Everything that determines the features of an extraction."""
    return {
        "augmentation": augmentation.key(),
        "architecture_sha256": encoder.architecture_sha256,
        "class_names_sha256": digest_of_names(dataset.class_names),
        "dataset": dataset.name,
        "dataset_sha256": dataset.fingerprint(),
        "decoding": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB",
        "model": encoder.model,
        "precision": encoder.precision,
        "preprocess": {k: _plain(v) for k, v in sorted(encoder.preprocess.config.items())},
        "pretrained": encoder.pretrained,
        "sentences_sha256": digest_of_names([s for row in sentences for s in [*row, "\0"]]),
        "templates": list(dataset.templates),
        "weights_sha256": encoder.weights_sha256,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def extract(
    dataset: Dataset,
    encoder: Encoder,
    path: Path,
    *,
    sentences: Sequence[Sequence[str]],
    options: Options | None = None,
    rebuild: bool = False,
) -> Extraction:
    """Encode a dataset once and write its cache file.

    An interrupted extraction goes on after its last finished block when it is run again.

    Parameters
    ----------
    dataset : Dataset
    encoder : Encoder
    path : Path
        The cache file to write.
    sentences : sequence of sequence of str
        Prompts of every class; lengths may differ. (C, P)
    options : Options, optional
    rebuild : bool
        Replace a cache that was made under another key.

    Returns
    -------
    Extraction

    Raises
    ------
    CacheMismatchError
        If a cache of another key is there and `rebuild` is not set; the difference is named.
    DatasetError
        If an image vanishes, cannot be read with `on_error="fail"`, or none of a split can.
    CacheError
        If the cache folder cannot be written.
    """
    options = options or Options()
    key = cache_key(dataset, encoder, sentences, options.augmentation)
    if path.is_file() and _is_same(path, key, rebuild):
        return Extraction(path, 0, 0, 0.0, was_there=True)
    start = time.perf_counter()
    units = _plan(dataset)
    with Partial(path, key) as partial:
        images = _encode(dataset, encoder, partial, units, options)
        seconds = time.perf_counter() - start
        skipped = _skipped(partial, units)
        _refuse_empty(dataset, skipped)
        header = _header(dataset, encoder, key, sentences, skipped)
        counts = collections.Counter(unit.split for unit in units)
        write_cache(path, header, {name: partial.blocks(name, n) for name, n in counts.items()})
        partial.discard()
    return Extraction(path, images, len(skipped), seconds)


def _is_same(path: Path, key: Key, rebuild: bool) -> bool:
    try:
        found = FeatureCache.open(path).header.key
    except CacheFormatError:
        if rebuild:
            return False
        raise
    different = differences(found, key)
    if different and not rebuild:
        raise CacheMismatchError(
            f"'{path}' was made differently: {'; '.join(different)}. Use --rebuild to replace it, "
            "or --cache to keep both."
        )
    return not different


def _plan(dataset: Dataset) -> list[_Unit]:
    units = []
    for split in SPLITS:
        items = dataset.splits.get(split, ())
        for number, start in enumerate(range(0, len(items), BLOCK_IMAGES)):
            units.append(_Unit(split, number, tuple(items[start : start + BLOCK_IMAGES])))
    return units


def _encode(
    dataset: Dataset,
    encoder: Encoder,
    partial: Partial,
    units: Sequence[_Unit],
    options: Options,
) -> int:
    """Encode the blocks that are not finished yet; returns the number of images encoded."""
    total = sum(len(unit.items) for unit in units)
    todo = [unit for unit in units if not partial.has(unit.split, unit.number)]
    done = total - sum(len(unit.items) for unit in todo)
    encoded = 0
    batches = _decoded_batches(dataset, encoder, todo, options)
    for unit, group in groupby(batches, key=itemgetter(0)):
        features, read, failures = [], [], []
        for _, batch in group:
            features.append(_encode_batch(encoder, batch))
            read += [image.item for image in batch if image.views is not None]
            failures += [Failure(i.item.id, i.reason) for i in batch if i.views is None]
            done += len(batch)
            if options.progress is not None:
                options.progress(unit.split, done, total)
        partial.save(unit.split, unit.number, _block(features, read), failures)
        encoded += len(read)
    return encoded


def _decoded_batches(
    dataset: Dataset, encoder: Encoder, units: Sequence[_Unit], options: Options
) -> Iterator[tuple[_Unit, list[Decoded]]]:
    """Batches of all blocks, decoded ahead; no batch spans two blocks."""
    decoder = Decoder(dataset, encoder.preprocess, strict=options.on_error == "fail")
    size = options.batch_size or _batch_size(encoder)
    jobs = (
        (unit, unit.items[start : start + size], _augmentation(unit, options))
        for unit in units
        for start in range(0, len(unit.items), size)
    )
    threads = options.workers or min(os.cpu_count() or 1, 16)
    for (unit, _, _), batch in ahead(lambda job: decoder.decode(job[1], job[2]), jobs, threads):
        yield unit, batch


def _augmentation(unit: _Unit, options: Options) -> Augmentation:
    return options.augmentation if unit.split == "train" else Augmentation()


def _batch_size(encoder: Encoder) -> int:
    height, width = encoder.preprocess.size
    pixels = _BATCH_PIXELS * (_CUDA_FACTOR if encoder.device.type == "cuda" else 1)
    return max(1, min(pixels // (height * width), _LARGEST_BATCH))


def _encode_batch(encoder: Encoder, batch: Sequence[Decoded]) -> NDArray[Any]:
    """Features of the images of a batch that could be read. (n, V, D)"""
    pixels = [image.views for image in batch if image.views is not None]
    if not pixels:
        return np.empty((0, 1, encoder.width), _storage_type(encoder))
    stacked = np.stack(pixels)  # (n, V, S, S, 3)
    features = encoder.encode_pixels(torch.from_numpy(stacked).flatten(0, 1))
    return features.numpy().reshape(*stacked.shape[:2], -1).astype(_storage_type(encoder))


def _storage_type(encoder: Encoder) -> type[np.floating[Any]]:
    """float16 holds what a half-precision encoder gives: bf16 has fewer digits, fp16 as many."""
    return np.float32 if encoder.precision == "fp32" else np.float16


def _block(features: Sequence[NDArray[Any]], read: Sequence[Item]) -> Block:
    views = np.concatenate([part for part in features if len(part)] or features[:1])  # (n, V, D)
    return Block(
        ids=[item.id for item in read],
        labels=np.array([item.label for item in read], np.int32),
        features=views[:, 0],
        views=views if views.shape[1] > 1 else None,
    )


def _skipped(partial: Partial, units: Sequence[_Unit]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (unit.split, failure.id, failure.reason)
        for unit in units
        for failure in partial.load(unit.split, unit.number)[1]
    )


def _refuse_empty(dataset: Dataset, skipped: Sequence[tuple[str, str, str]]) -> None:
    lost = collections.Counter(split for split, _, _ in skipped)
    for split, count in lost.items():
        if count == len(dataset.splits[split]):
            raise DatasetError(
                f"none of the {count} images of split '{split}' of '{dataset.name}' can be read "
                f"({skipped[0][1]}: {skipped[0][2]}); repair them and run the command again."
            )


def _header(
    dataset: Dataset,
    encoder: Encoder,
    key: Key,
    sentences: Sequence[Sequence[str]],
    skipped: tuple[tuple[str, str, str], ...],
) -> Header:
    prompts = max(len(row) for row in sentences)
    padded = tuple((*row, *[""] * (prompts - len(row))) for row in sentences)
    flat = [sentence for row in sentences for sentence in row]
    present = np.array([[sentence != "" for sentence in row] for row in padded])
    text = np.zeros((*present.shape, encoder.width), np.float32)
    text[present] = encoder.encode_text(flat).numpy()
    return Header(
        key=key,
        dataset=dataset.name,
        model=encoder.model,
        pretrained=encoder.pretrained,
        class_names=dataset.class_names,
        sentences=padded,
        text_features=text,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        source=dataset.source,
        missing=dataset.missing,
        skipped=skipped,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
