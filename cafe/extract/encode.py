"""Encoding the images of a dataset block by block, decoded ahead; writes no cache file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

import torch

from cafe.datasets.base import SPLITS, Dataset, Item
from cafe.devices import torch_threads
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Augmentation, quiet_pillow
from cafe.errors import InputError
from cafe.extract.decode import Decoded, Decoder, ahead
from cafe.extract.encode_batch import Encoded, block_of, encode_batch
from cafe.extract.resume import Failure, ResumeFolder

Progress = Callable[[str, int, int], None]
"""Called with the split's name, the images done and the images in all, over all splits."""

BLOCK_BATCHES = 8
"""Batches per finished block, which is the most that an interrupted run has to encode again."""

_BATCH_PIXELS = 16 * 224 * 224  # a core is no faster with larger batches
_CUDA_FACTOR = 16
_LARGEST_BATCH = 512
_PIECE = 16  # images that a thread decodes at a time beside an accelerator
_MOST_DECODERS = 16


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
        Threads that decode, and on a CPU encode too, a batch each; None takes one per core, beside
        an accelerator 16 at most.
    progress : callable or None
        Called after every batch.
    spatial : int or None
        Largest side of the spatial maps that are stored too; None stores none.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    on_error: Literal["skip", "fail"] = "skip"
    batch_size: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    spatial: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        if self.augmentation.views < 1:
            raise InputError(f"views must be at least 1; got {self.augmentation.views}.")


class Unit(NamedTuple):
    """A block's worth of items.

    A unit is always cut into the same batches: a feature's last bits depend on the batch that it is
    computed in, and an interrupted run shall end with the same bits.
    """

    split: str
    number: int
    items: tuple[Item, ...]
    batch: int


def plan_units(dataset: Dataset, encoder: Encoder, options: Options) -> list[Unit]:
    """Cut a dataset into units."""
    units = []
    for split in SPLITS:
        items = dataset.splits.get(split, ())
        batch = options.batch_size or _batch_size(
            encoder, _augmentation(split, options.augmentation).views
        )
        block = batch * BLOCK_BATCHES
        for number, start in enumerate(range(0, len(items), block)):
            units.append(Unit(split, number, tuple(items[start : start + block]), batch))
    return units


def _augmentation(split: str, wanted: Augmentation) -> Augmentation:
    return wanted if split == "train" else Augmentation()


def _batch_size(encoder: Encoder, views: int) -> int:
    height, width = encoder.preprocess.size
    pixels = _BATCH_PIXELS * (_CUDA_FACTOR if encoder.device.type == "cuda" else 1)
    return max(1, min(pixels // (height * width), _LARGEST_BATCH) // views)


def encode_units(
    dataset: Dataset,
    encoder: Encoder,
    partial: ResumeFolder,
    units: Sequence[Unit],
    options: Options,
) -> int:
    """Encode the units that are not finished yet; returns the number of images encoded."""
    total = sum(len(unit.items) for unit in units)
    todo = unfinished(partial, units)
    done = total - sum(len(unit.items) for unit in todo)
    encoded = 0
    threads = options.workers or _threads(encoder)
    decoder = Decoder(dataset, encoder.preprocess, strict=options.on_error == "fail")
    encode = _on_cores if encoder.device.type == "cpu" else _beside_device
    with quiet_pillow(), torch_threads(1):
        batches = encode(encoder, decoder, todo, options, threads)
        for unit, group in groupby(batches, key=itemgetter(0)):
            features, read, failures = [], [], []
            for _, images, encoded_batch in group:
                features.append(encoded_batch)
                read += [image.item for image in images if image.views is not None]
                failures += [Failure(i.item.id, i.reason) for i in images if i.views is None]
                done += len(images)
                if options.progress is not None:
                    options.progress(unit.split, done, total)
            partial.save(unit.split, unit.number, block_of(features, read), failures)
            encoded += len(read)
    return encoded


def _threads(encoder: Encoder) -> int:
    """On a CPU as many as torch would compute with; beside an accelerator all cores decode."""
    if encoder.device.type == "cpu":
        return torch.get_num_threads()
    return min(os.cpu_count() or 1, _MOST_DECODERS)


def unfinished(partial: ResumeFolder, units: Sequence[Unit]) -> list[Unit]:
    """The units whose blocks are not there yet."""
    return [unit for unit in units if not partial.has(unit.split, unit.number, len(unit.items))]


Batches = Iterator[tuple[Unit, list[Decoded], Encoded]]
"""Unit, images, and the features of those that could be read, batch by batch; none spans units."""


def _on_cores(
    encoder: Encoder,
    decoder: Decoder,
    units: Sequence[Unit],
    options: Options,
    threads: int,
) -> Batches:
    """Each thread decodes a batch and encodes it, on one core.

    Cores that share an operation meet at its end, and a decoder that holds one of them makes all
    wait: two threads of their own were 1.5 times faster than decoding beside a shared forward pass.
    Features do not depend on the number of cores either.
    """

    def work(job: tuple[Unit, tuple[Item, ...]]) -> tuple[list[Decoded], Encoded]:
        images = decoder.decode(job[1], _augmentation(job[0].split, options.augmentation))
        return images, encode_batch(encoder, images, options.spatial)

    for (unit, _), (images, features) in ahead(work, _pieces(units), threads):
        yield unit, images, features


def _beside_device(
    encoder: Encoder,
    decoder: Decoder,
    units: Sequence[Unit],
    options: Options,
    threads: int,
) -> Batches:
    """Threads decode small pieces, two batches ahead of the accelerator."""

    def decode(job: tuple[Unit, tuple[Item, ...]]) -> list[Decoded]:
        return decoder.decode(job[1], _augmentation(job[0].split, options.augmentation))

    largest = max((unit.batch for unit in units), default=1)
    waiting = threads + 2 * -(-largest // _PIECE)
    batch: list[Decoded] = []
    left = 0
    for (unit, _), images in ahead(decode, _pieces(units, _PIECE), threads, waiting):
        left = left or len(unit.items)  # a new unit begins
        batch += images
        left -= len(images)
        if len(batch) == unit.batch or not left:
            yield unit, batch, encode_batch(encoder, batch, options.spatial)
            batch = []


def _pieces(
    units: Sequence[Unit], piece: int | None = None
) -> Iterator[tuple[Unit, tuple[Item, ...]]]:
    """The items of every batch of every unit, in pieces of at most so many."""
    for unit in units:
        for start in range(0, len(unit.items), unit.batch):
            batch = unit.items[start : start + unit.batch]
            step = piece or unit.batch
            for first in range(0, len(batch), step):
                yield unit, batch[first : first + step]
