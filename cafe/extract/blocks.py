"""The images of a dataset, cut into blocks, and encoded block by block; writes no cache file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch

from cafe.datasets.dataset import SPLITS, Dataset, Item
from cafe.devices import torch_threads
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import quiet_pillow
from cafe.encoders.quick_resize import build_quick_resize
from cafe.errors import CafeError, InputError
from cafe.extract.crops import CropDecoder
from cafe.extract.decode import DecodedImage, ImageReader, decode_item
from cafe.extract.encode import EncodedBatch, LoaderOptions
from cafe.extract.file_states import changed_files, state_array
from cafe.extract.pipeline import decode_and_encode, decoder_threads, worth_processes
from cafe.extract.resume import Failure, ResumeFolder
from cafe.store import Block

BLOCK_BATCHES = 8
"""Batches per block. An interrupted run encodes one block again, at most."""

ItemDecoder = Callable[..., DecodedImage]
"""Called as `cafe.extract.decode.decode_item`."""

_BATCH_PIXELS = 16 * 224 * 224  # a core is no faster with larger batches
_BATCH_TOKENS = 1600  # of vision transformers: more leave a core's cache (benchmarks/forward.py)
_CUDA_FACTOR, _CUDA_FACTOR_OF_TOKENS = 16, 32  # a GPU is idle with the batch of a core
_LARGEST_BATCH = 512


@dataclass(frozen=True)
class ExtractOptions(LoaderOptions):
    """How an extraction runs; see `LoaderOptions` for the other attributes.

    By default the batch size fits the input size and the device. On a CPU each worker decodes and
    encodes a batch of its own, one worker per core; beside an accelerator up to 16 decode.

    Attributes
    ----------
    augmentation : Augmentation
        Augmented views, and of which splits' images.
    on_error : {"skip", "fail"}
        What to do with an image that cannot be read: skip and record it, or stop.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    on_error: Literal["skip", "fail"] = "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentation.views < 1:
            raise InputError(f"views must be at least 1; got {self.augmentation.views}.")

    def augmentation_of(self, split: str) -> Augmentation:
        """Only training images are augmented."""
        return self.augmentation if split in self.augmentation.splits else Augmentation()


class PlannedBlock(NamedTuple):
    """The images of one block.

    A block is always cut into the same batches. A feature's last bits depend on the batch that it
    is computed in, and an interrupted run must end with the same bits as an uninterrupted one.

    Attributes
    ----------
    split : str
    number : int
        Place among the blocks of the split.
    items : tuple of Item
    batch_size : int
    """

    split: str
    number: int
    items: tuple[Item, ...]
    batch_size: int

    def batches(self) -> Iterator[tuple[Item, ...]]:
        """The items of each batch."""
        for start in range(0, len(self.items), self.batch_size):
            yield self.items[start : start + self.batch_size]


def plan_blocks(dataset: Dataset, encoder: Encoder, options: ExtractOptions) -> list[PlannedBlock]:
    """Cut a dataset into blocks."""
    blocks = []
    for split in SPLITS:
        items = dataset.splits.get(split, ())
        views = options.augmentation_of(split).views
        batch = options.batch_size or _default_batch_size(encoder, views * max(1, dataset.crops))
        size = batch * BLOCK_BATCHES
        for number, start in enumerate(range(0, len(items), size)):
            blocks.append(PlannedBlock(split, number, items[start : start + size], batch))
    return blocks


def _default_batch_size(encoder: Encoder, views: int) -> int:
    height, width = encoder.preprocess.size
    images, factor = _BATCH_PIXELS // (height * width), _CUDA_FACTOR
    if (tokens := encoder.tokens) is not None:
        images, factor = _BATCH_TOKENS // tokens, _CUDA_FACTOR_OF_TOKENS
    if encoder.device.type == "cuda":
        images *= factor
    return max(1, min(images, _LARGEST_BATCH) // views)


def unfinished(
    dataset: Dataset, resume: ResumeFolder, blocks: Iterable[PlannedBlock]
) -> list[PlannedBlock]:
    """The blocks that the resume folder does not hold yet, or holds of others."""
    return [block for block in blocks if not _is_finished(dataset, resume, block)]


def _is_finished(dataset: Dataset, resume: ResumeFolder, block: PlannedBlock) -> bool:
    if (kept := resume.find(block.split, block.number)) is None:
        return False
    done, failures = kept
    failed = {failure.id for failure in failures}
    asked = [(item.id, item.label) for item in block.items if item.id not in failed]
    kept_pairs = list(zip(done.ids, done.labels.tolist(), strict=False))
    if asked != kept_pairs or len(asked) + len(failures) != len(block.items):
        return False  # of the dataset as it was at an earlier sitting
    if not dataset.knows_content:
        return True
    ids = [*done.ids, *(failure.id for failure in failures)]
    states = [failure.state for failure in failures]
    if done.files is None or None in states:  # an older cafe kept it
        return False
    files = np.concatenate([done.files, state_array(filter(None, states))])
    return not changed_files(dataset, ids, files)


def count_images(blocks: Iterable[PlannedBlock]) -> int:
    """Number of images in blocks."""
    return sum(len(block.items) for block in blocks)


def encode_blocks(
    dataset: Dataset,
    encoder: Encoder,
    resume: ResumeFolder,
    blocks: Sequence[PlannedBlock],
    options: ExtractOptions,
) -> int:
    """Encode the blocks that are not finished yet; returns the number of images encoded.

    Raises
    ------
    DatasetError
        If an image is gone, or cannot be read with `on_error="fail"`.
    CafeError
        If a feature is not finite.
    """
    todo = unfinished(dataset, resume, blocks)
    done = count_images(blocks) - count_images(todo)
    return sum(block_steps(dataset, encoder, resume, todo, options, done))


def block_steps(
    dataset: Dataset,
    encoder: Encoder,
    resume: ResumeFolder,
    todo: Sequence[PlannedBlock],
    options: ExtractOptions,
    done: int = 0,
    decode: ItemDecoder | None = None,
) -> Iterator[int]:
    """Encode blocks, one at each step; yields the number of images that could be read.

    Parameters are those of `encode_blocks`, and the blocks that are not finished, the number of
    images in those that are, and what reads an image, in a thread.
    """
    total = done + count_images(todo)
    batches = _encoded_batches(dataset, encoder, todo, options, decode)  # counts torch's threads
    with quiet_pillow(), torch_threads(1):
        for block in todo:
            finished, read, states, failures = [], [], [], []
            # one iterator over the batches of all blocks: decoding does not pause between blocks
            for items, (images, batch) in zip(block.batches(), batches, strict=False):
                pairs = list(zip(items, images, strict=True))
                good = [item for item, image in pairs if not image.reason]
                failures += [Failure(i.id, d.reason, d.state) for i, d in pairs if d.reason]
                plain = _of_crops(dataset, batch, block.split) if dataset.crops else batch
                finished.append(_storable(plain, good, encoder))
                read += good
                states += [image.state for image in images if image.state and not image.reason]
                done += len(items)
                if options.progress is not None:
                    options.progress(block.split, done, total)
            files = None if not dataset.knows_content else state_array(states)
            whole = replace(_join(finished, read), files=files)
            resume.save(block.split, block.number, whole, failures)
            yield len(read)


def _encoded_batches(
    dataset: Dataset,
    encoder: Encoder,
    todo: Sequence[PlannedBlock],
    options: ExtractOptions,
    decode: ItemDecoder | None,
) -> Iterator[tuple[list[DecodedImage], EncodedBatch]]:
    """The images of every batch of every block, and the encoder's output; see `block_steps`."""
    on_cpu = encoder.device.type == "cpu"
    threads = options.workers or (torch.get_num_threads() if on_cpu else decoder_threads())
    images, in_processes = count_images(todo), False
    build_quick_resize(images)
    if decode is None:
        decode = CropDecoder(threads + 1) if dataset.crops else decode_item
        # other datasets than files in a folder are large to send
        if type(dataset) is Dataset and worth_processes(encoder.device, threads, images):
            dataset, in_processes = dataset.without_items(), True
    return decode_and_encode(
        encoder,
        read_blocks(dataset, encoder, todo, options, decode),
        threads=threads,
        batch_size=max((block.batch_size for block in todo), default=1),
        spatial=options.spatial,
        pre_projection=options.pre_projection,
        core_per_batch=on_cpu,
        in_processes=in_processes,
    )


def read_blocks(
    dataset: Dataset,
    encoder: Encoder,
    blocks: Sequence[PlannedBlock],
    options: ExtractOptions,
    decode: ItemDecoder = decode_item,
) -> Iterator[list[ImageReader]]:
    """What reads the images of each batch of each block."""
    strict = options.on_error == "fail"
    for block in blocks:
        augmentation = options.augmentation_of(block.split)
        for items in block.batches():
            yield [
                partial(decode, dataset, item, encoder.preprocess, augmentation, strict=strict)
                for item in items
            ]


def _of_crops(dataset: Dataset, batch: EncodedBatch, split: str) -> EncodedBatch:
    """The mean feature of each item's crops, and in training those of the crops behind it."""
    mean = batch.features.mean(axis=1, keepdims=True)  # (n, 1, D)
    keep = split == "train" and dataset.crops > 1 and len(mean)
    return EncodedBatch(np.concatenate([mean, batch.features], axis=1) if keep else mean)


def _storable(batch: EncodedBatch, items: Sequence[Item], encoder: Encoder) -> EncodedBatch:
    """A batch in the type that is stored; numbers that are not finite are refused."""
    # float16 holds what a half-precision encoder gives: bf16 has fewer digits, fp16 as many
    dtype = np.float32 if encoder.precision == "fp32" else np.float16
    with np.errstate(over="ignore"):  # an overflow is refused below
        before = batch.pre_projection
        stored = batch._replace(
            features=batch.features.astype(dtype),
            pre_projection=None if before is None else before.astype(dtype),
        )
    for item, is_finite in zip(items, stored.finite(), strict=True):
        if not is_finite:
            raise CafeError(
                f"the feature of image '{item.id}' is not finite in {encoder.precision}; use "
                "precision='fp32'."
            )
    return stored


def _join(batches: Sequence[EncodedBatch], items: Sequence[Item]) -> Block:
    """The batches of a block in one."""
    full = [batch for batch in batches if len(batch.features)] or batches[:1]
    # batches without a readable image have no views to count, so they cannot be joined
    views = np.concatenate([batch.features for batch in full])  # (n, V, D)
    maps = [batch.spatial for batch in full if batch.spatial is not None]
    before = [batch.pre_projection for batch in full if batch.pre_projection is not None]
    return Block(
        ids=[item.id for item in items],
        labels=np.array([item.label for item in items], np.int32),
        features=views[:, 0],
        views=views if views.shape[1] > 1 else None,
        spatial=np.concatenate(maps) if maps else None,
        pre_projection=np.concatenate(before) if before else None,
    )
