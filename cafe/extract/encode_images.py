"""Images of any kind -> features, a batch at a time and in order; nothing is stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cafe.datasets.open_image import open_image
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Preprocess, quiet_pillow
from cafe.encoders.quick_resize import build_quick_resize
from cafe.errors import ImageError, InputError, escape_bytes
from cafe.extract.decode import DecodedImage, decode_image, decode_path
from cafe.extract.encode import EncodedBatch, LoaderOptions, encode_batch
from cafe.extract.image_sources import Images, ImageSource, list_images, to_image
from cafe.extract.pipeline import decode_and_encode, decoder_threads, worth_processes
from cafe.progress import log

OnError = Literal["fail", "skip"]
_BATCH, _CUDA_BATCH = 32, 256


class EncodedImages(NamedTuple):
    """A batch of images as a head takes them.

    Attributes
    ----------
    names : list of str
        As they were named; images in memory are numbered, bytes that are not UTF-8 escaped. (n,)
    reasons : list of str
        Why an image has no input; "" where it has. (n,)
    inputs : Tensor
        Those of the m images that have one, in order; see `head_inputs`.
    views : Tensor or None
        Raw features of augmented views of these, view 0 the plain one; a cache may have them.
        (m, V, D)
    """

    names: list[str]
    reasons: list[str]
    inputs: Tensor
    views: Tensor | None = None


def encode_all(
    encoder: Encoder, images: Images, options: LoaderOptions, on_error: OnError = "fail"
) -> NDArray[np.float32]:
    """Raw features of images, all in memory; see `cafe.Extractor.encode`. (N, D)"""
    batches = encode_images(encoder, list_images(images), options)
    return stack_rows(batches, lambda x: x, encoder.width, on_error)


def stack_rows(
    batches: Iterable[EncodedImages],
    answer: Callable[[Tensor], Tensor],
    width: int,
    on_error: OnError,
) -> NDArray[np.float32]:
    """One row for every image.

    Parameters
    ----------
    batches : iterable of EncodedImages
    answer : callable
        From the input of n images to their rows. (n, width)
    width : int
    on_error : {"fail", "skip"}
        Of an image that cannot be read: raise, or log it and give a row of NaN.

    Raises
    ------
    ImageError
        If an image cannot be read and `on_error` is "fail".
    """
    if on_error not in ("fail", "skip"):
        raise InputError(f"on_error must be 'fail' or 'skip'; got '{on_error}'.")
    parts = []
    with quiet_pillow():
        for batch in batches:
            for name, reason in zip(batch.names, batch.reasons, strict=True):
                if reason and on_error == "fail":
                    raise ImageError(
                        f"'{name}' cannot be read ({reason}); repair it or leave it out, or take "
                        "a row of NaN for it with on_error='skip'."
                    )
                if reason:
                    log.warning("'%s' cannot be read (%s); its row is NaN.", name, reason)
            rows = np.full((len(batch.names), width), np.nan, np.float32)
            if len(batch.inputs):
                is_read = np.array([not reason for reason in batch.reasons])
                rows[is_read] = answer(batch.inputs).cpu().numpy()
            parts.append(rows)
    return np.concatenate(parts)


def encode_images(
    encoder: Encoder, sources: Sequence[ImageSource], options: LoaderOptions
) -> Iterator[EncodedImages]:
    """Decode images ahead, and encode them; few batches are in memory at a time.

    Parameters
    ----------
    encoder : Encoder
    sources : sequence of path or image
        From `list_images`.
    options : LoaderOptions
        By default batches are of 32 images, or 256 on CUDA, and a thread per core decodes, up to
        16.

    Yields
    ------
    EncodedImages
        A batch.
    """
    size = options.batch_size or (_CUDA_BATCH if encoder.device.type == "cuda" else _BATCH)
    are_files = all(isinstance(source, str | os.PathLike) for source in sources)
    # in a process that decodes, the function for files loads little
    decode: Callable[..., DecodedImage] = decode_path if are_files else decode_source
    readers = (
        [partial(decode, source, encoder.preprocess) for source in sources[start:][:size]]
        for start in range(0, len(sources), size)
    )
    threads = options.workers or decoder_threads()
    build_quick_resize(len(sources))
    # all cores encode a batch together: a few images shall not wait for one core
    batches = decode_and_encode(
        encoder,
        readers,
        threads=threads,
        batch_size=size,
        spatial=options.spatial,
        pre_projection=options.pre_projection,
        in_processes=are_files and worth_processes(encoder.device, threads, len(sources)),
    )
    names = [
        escape_bytes(os.fspath(source))
        if isinstance(source, str | os.PathLike)
        else f"image {number}"
        for number, source in enumerate(sources)
    ]
    done = 0
    for images, batch in batches:
        start, done = done, done + len(images)
        yield _encoded_images(names[start:done], images, batch, encoder)
        if options.progress is not None:
            options.progress("images", done, len(sources))


def decode_source(source: ImageSource, preprocess: Preprocess) -> DecodedImage:
    """Decode a file, its bytes, a URL, or an image in memory, which stays open and as large."""
    if isinstance(source, Image.Image):
        return decode_image(lambda: nullcontext(source), preprocess.decoding("exact"))
    if isinstance(source, bytes):
        return decode_image(lambda: open_image(source), preprocess)
    if not isinstance(source, str | os.PathLike):
        return decode_image(lambda: nullcontext(to_image(source)), preprocess)
    return decode_path(source, preprocess)


def read_pixels(encoder: Encoder, sources: Sequence[ImageSource]) -> Tensor:
    """The encoder's pixels of the images that can be read. (n, S, S, 3) uint8"""
    images = [decode_source(source, encoder.preprocess) for source in sources]
    views = [image.views[0] for image in images if image.views is not None]
    shape = (0, *encoder.preprocess.size, 3)
    return torch.from_numpy(np.stack(views) if views else np.empty(shape, np.uint8))


def head_inputs(batch: EncodedBatch) -> Tensor:
    """What a head takes of plain images: (n, D), or (n, 1 + T, D) with their spatial maps.

    A head that projects by itself takes the features before the projection. (n, E)
    """
    if batch.pre_projection is not None:
        return torch.from_numpy(batch.pre_projection)[:, 0]
    features = torch.from_numpy(batch.features)  # (n, 1, D)
    if batch.spatial is None:
        return features[:, 0]
    return torch.cat([features, torch.from_numpy(batch.spatial).float()], dim=1)


def pixel_inputs(
    encoder: Encoder, pixels: Tensor, spatial: int | None, pre_projection: bool = False
) -> Tensor:
    """What a head takes of preprocessed images (n, S, S, 3)."""
    images = [DecodedImage(image[None].numpy()) for image in pixels]
    return head_inputs(encode_batch(encoder, images, spatial, pre_projection))


def _encoded_images(
    names: list[str], images: Sequence[DecodedImage], batch: EncodedBatch, encoder: Encoder
) -> EncodedImages:
    """A batch for a head; images with numbers that are not finite get a reason instead."""
    reasons = [image.reason for image in images]
    read, finite = np.flatnonzero([not reason for reason in reasons]), batch.finite()
    for place in read[~finite]:
        reasons[place] = f"its feature is not finite in {encoder.precision}"
    return EncodedImages(names, reasons, head_inputs(batch)[torch.from_numpy(finite)])
