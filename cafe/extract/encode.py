"""Decoded images -> features, a batch at a time and in order; for extraction and for prediction.

On a GPU one batch is copied while another is encoded: each of two threads has a CUDA stream.

On a CPU an extraction encodes each batch on one core. Cores that share an operation wait for the
slowest at its end, and a decoding thread keeps one of them busy: on two cores, two threads that
each decode and encode were 1.5 times faster than decoding beside a shared forward pass.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.devices import out_of_memory
from cafe.encoders.encoder import Encoder
from cafe.encoders.projection import encode_both
from cafe.encoders.spatial import encode_spatial
from cafe.errors import InputError
from cafe.extract.decode import DecodedImage, ImageReader, map_ahead
from cafe.extract.decode_processes import decoding_processes, naming_lost_processes
from cafe.progress import Progress

_PIECE = 16  # images that a thread decodes at a time, so that one batch occupies several threads
_MOST_DECODERS = 16
_FEW_THREADS = 4  # wait little for the interpreter's lock
_MANY_IMAGES = 8192
_CUDA_STREAMS = 2  # one copies and is waited for while the other computes


@dataclass(frozen=True)
class LoaderOptions:
    """How images are read and encoded.

    Attributes
    ----------
    batch_size : int or None
        Images per forward pass; None chooses by the device.
    workers : int or None
        Threads that decode; None chooses by the device and the number of cores.
    progress : callable or None
        Called after every batch with a stage, the images done and the images in all.
    spatial : int or None
        Largest side of the images' spatial maps; None makes no maps.
    pre_projection : bool
        Whether to keep the features before the tower's last projection too; not with maps.
    """

    batch_size: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    spatial: int | None = None
    pre_projection: bool = False

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        if self.pre_projection and self.spatial is not None:
            raise InputError(
                "a cache holds spatial maps or features before the projection; ask for one."
            )


def decoder_threads() -> int:
    """Threads that decode beside the encoder: one per core, up to 16."""
    return min(os.cpu_count() or 1, _MOST_DECODERS)


def worth_processes(device: torch.device, threads: int, images: int) -> bool:
    """Whether so many images are read faster in processes, which take seconds to start.

    A CPU encodes fewer images than its threads decode.
    """
    return device.type == "cuda" and threads > _FEW_THREADS and images >= _MANY_IMAGES


class EncodedBatch(NamedTuple):
    """The encoder's output for the images of a batch that could be read.

    Attributes
    ----------
    features : ndarray
        Raw features of every view. (n, V, D) float32
    spatial : ndarray or None
        Maps of the plain views. (n, T, D) float16
    pre_projection : ndarray or None
        The same views before the tower's last projection. (n, V, E) float32
    """

    features: NDArray[np.floating[Any]]
    spatial: NDArray[np.float16] | None = None
    pre_projection: NDArray[np.floating[Any]] | None = None

    def finite(self) -> NDArray[np.bool_]:
        """Whether all numbers of an image are finite. (n,)"""
        finite: NDArray[np.bool_] = np.isfinite(self.features).all(axis=(1, 2))
        for array in (self.spatial, self.pre_projection):
            if array is not None:
                finite &= np.isfinite(array).all(axis=(1, 2))
        return finite


def encode_batch(
    encoder: Encoder,
    images: Sequence[DecodedImage],
    spatial: int | None,
    pre_projection: bool = False,
) -> EncodedBatch:
    """Encode the images of a batch that could be read.

    Parameters
    ----------
    encoder : Encoder
    images : sequence of DecodedImage
    spatial : int or None
        Largest side of their spatial maps; None makes no maps.
    pre_projection : bool
        Whether to keep their features before the last projection too.
    """
    read = [image.views for image in images if image.views is not None]  # (V, S, S, 3) each
    if not read:
        return EncodedBatch(np.empty((0, 1, encoder.width), np.float32))
    try:
        return _encode_views(encoder, _stacked(read, encoder.device), spatial, pre_projection)
    except torch.cuda.OutOfMemoryError as error:
        if len(read) == 1:
            raise out_of_memory("one image") from error
    torch.cuda.empty_cache()
    halves = images[: len(images) // 2], images[len(images) // 2 :]
    return _joined([encode_batch(encoder, half, spatial, pre_projection) for half in halves])


def _stacked(views: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """The views of n images in one tensor, in memory that the device reads fast. (n, V, S, S, 3)"""
    shape = len(views), *views[0].shape
    # pinned: a GPU copies it while it computes; it is used again for a later batch
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(views, out=pixels.numpy())
    return pixels


def _encode_views(
    encoder: Encoder, views: Tensor, spatial: int | None, pre_projection: bool
) -> EncodedBatch:
    """Encode images of V views each. (n, V, S, S, 3)"""
    count, each = views.shape[:2]
    pixels = views.flatten(0, 1)  # (n V, S, S, 3)
    if pre_projection:
        both = [part.numpy().reshape(count, each, -1) for part in encode_both(encoder, pixels)]
        return EncodedBatch(both[0], pre_projection=both[1])
    if spatial is None:
        features = encoder.encode_pixels(pixels)  # (n V, D)
        return EncodedBatch(features.numpy().reshape(count, each, -1))
    features, maps = encode_spatial(encoder, pixels, spatial)  # (n V, D), (n V, T, D)
    plain = maps.numpy().reshape(count, each, *maps.shape[1:])[:, 0]  # (n, T, D)
    return EncodedBatch(features.numpy().reshape(count, each, -1), plain)


def _joined(parts: Sequence[EncodedBatch]) -> EncodedBatch:
    """The batches as one; those in which no image could be read are left out."""
    full = [part for part in parts if len(part.features)]
    features = np.concatenate([part.features for part in full])
    maps = [part.spatial for part in full if part.spatial is not None]
    before = [part.pre_projection for part in full if part.pre_projection is not None]
    return EncodedBatch(
        features,
        np.concatenate(maps) if maps else None,
        np.concatenate(before) if before else None,
    )


def decode_and_encode(
    encoder: Encoder,
    batches: Iterable[Sequence[ImageReader]],
    *,
    threads: int,
    batch_size: int,
    spatial: int | None = None,
    pre_projection: bool = False,
    core_per_batch: bool = False,
    in_processes: bool = False,
) -> Iterator[tuple[list[DecodedImage], EncodedBatch]]:
    """Decode images ahead of the encoder, and encode them.

    Parameters
    ----------
    encoder : Encoder
    batches : iterable of sequence of ImageReader
        Drawn lazily. A batch's images go through the encoder together.
    threads : int
    batch_size : int
        Images of the largest batch.
    spatial : int, optional
        Largest side of the images' spatial maps; None makes no maps.
    pre_projection : bool
        Whether to keep the features before the last projection too.
    core_per_batch : bool
        Encode each batch in the thread that decoded it. Torch must run one thread per operation.
    in_processes : bool
        Decode in processes, to which what reads the images is sent; see `worth_processes`.

    Yields
    ------
    tuple
        The images of a batch, and the encoder's output for those that could be read.
    """

    def encode(images: list[DecodedImage]) -> _Encoded:
        return images, encode_batch(encoder, images, spatial, pre_projection)

    def decode_then_encode(readers: Sequence[ImageReader]) -> _Encoded:
        return encode([read() for read in readers])

    if core_per_batch:  # nothing to overlap: the thread that decodes is the one that encodes
        yield from map_ahead(decode_then_encode, batches, threads)
        return
    decoded = decode_ahead(batches, threads, batch_size, in_processes=in_processes)
    if encoder.device.type == "cuda":
        yield from _encode_in_streams(encode, decoded, encoder.device)
    else:
        yield from map(encode, decoded)


_Encoded = tuple[list[DecodedImage], EncodedBatch]
"""The images of a batch, and the encoder's output for those that could be read."""


class _OwnStream(threading.local):
    """A CUDA stream for each thread that asks; it begins after what was asked before it."""

    def __init__(self, device: torch.device) -> None:
        self.stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.default_stream(device))


def _encode_in_streams(
    encode: Callable[[list[DecodedImage]], _Encoded],
    decoded: Iterable[list[DecodedImage]],
    device: torch.device,
) -> Iterator[_Encoded]:
    """Encode batches in two threads, each with a CUDA stream of its own; the GPU never waits."""
    own = _OwnStream(device)

    def in_stream(images: list[DecodedImage]) -> _Encoded:
        with torch.cuda.stream(own.stream):
            return encode(images)

    return map_ahead(in_stream, decoded, _CUDA_STREAMS)


def decode_ahead(
    batches: Iterable[Sequence[ImageReader]],
    threads: int,
    batch_size: int,
    *,
    in_processes: bool = False,
) -> Iterator[list[DecodedImage]]:
    """Decode batches, some ahead of the one that is asked for; see `decode_and_encode`."""
    # two batches ahead: one is ready when the encoder is, and one is being decoded
    waiting = threads + 2 * -(-batch_size // _PIECE)
    pool = decoding_processes(threads) if in_processes else None
    images: list[DecodedImage] = []
    with naming_lost_processes():
        for decoded, is_last in map_ahead(_decode, _pieces(batches), threads, waiting, pool):
            images += decoded
            if is_last:
                yield images
                images = []


def _decode(piece: _Piece) -> tuple[list[DecodedImage], bool]:
    readers, is_last = piece
    return [read() for read in readers], is_last


_Piece = tuple[Sequence[ImageReader], bool]
"""Some images of a batch, and whether they are the last of it."""


def _pieces(batches: Iterable[Sequence[ImageReader]]) -> Iterator[_Piece]:
    for batch in batches:
        for start in range(0, len(batch), _PIECE):
            yield batch[start : start + _PIECE], start + _PIECE >= len(batch)
