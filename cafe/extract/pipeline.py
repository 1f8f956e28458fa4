"""Decoding ahead of the encoder, in order; for extraction and for prediction.

On a GPU one batch is copied while another is encoded, in two threads and two CUDA streams.

On a CPU an extraction encodes each batch on one core. Cores that share an operation wait for the
slowest at its end, and a decoding thread keeps one of them busy: on two cores, two threads that
each decode and encode were 1.5 times faster than decoding beside a shared forward pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle

import torch

from cafe.encoders.encoder import Encoder
from cafe.extract.decode import DecodedImage, ImageReader, Piece, decode_piece, map_ahead
from cafe.extract.decode_processes import decoding_processes, naming_lost_processes
from cafe.extract.encode import EncodedBatch, encode_batch

_PIECE = 16  # images that a thread decodes at a time, so that one batch occupies several threads
_MOST_DECODERS = 16
_FEW_THREADS = 4  # wait little for the interpreter's lock
_MANY_IMAGES = 5000  # more than a block: what encodes block by block would start them for each
_CUDA_STREAMS = 2  # one copies and is waited for while the other computes


def decoder_threads() -> int:
    """Threads that decode beside the encoder: one per core, up to 16."""
    return min(os.cpu_count() or 1, _MOST_DECODERS)


def worth_processes(device: torch.device, threads: int, images: int) -> bool:
    """Whether so many images are read faster in processes, which take a second to start.

    A CPU encodes fewer images than its threads decode.
    """
    return device.type == "cuda" and threads > _FEW_THREADS and images >= _MANY_IMAGES


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


def _encode_in_streams(
    encode: Callable[[list[DecodedImage]], _Encoded],
    decoded: Iterable[list[DecodedImage]],
    device: torch.device,
) -> Iterator[_Encoded]:
    """Encode batches in two threads and, by turns, in two CUDA streams; the GPU never waits."""
    streams = _streams(device)
    for stream in streams:  # after what was asked before it, as the copy of the weights
        stream.wait_stream(torch.cuda.default_stream(device))

    def in_stream(given: tuple[list[DecodedImage], torch.cuda.Stream]) -> _Encoded:
        images, stream = given
        with torch.cuda.stream(stream):
            return encode(images)

    return map_ahead(in_stream, zip(decoded, cycle(streams), strict=False), _CUDA_STREAMS)


@lru_cache
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """The same for each call: memory that PyTorch keeps for one stream is of no use to another."""
    return [torch.cuda.Stream(device) for _ in range(_CUDA_STREAMS)]  # type: ignore[no-untyped-call]


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
        for decoded, is_last in map_ahead(decode_piece, _pieces(batches), threads, waiting, pool):
            images += decoded
            if is_last:
                yield images
                images = []


def _pieces(batches: Iterable[Sequence[ImageReader]]) -> Iterator[Piece]:
    for batch in batches:
        for start in range(0, len(batch), _PIECE):
            yield batch[start : start + _PIECE], start + _PIECE >= len(batch)
