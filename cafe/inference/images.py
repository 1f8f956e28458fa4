"""New images -> a head's input, by the batch and in order; knows no dataset, stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cafe.datasets.left_out import LeftOut
from cafe.datasets.list_folder import images_below
from cafe.datasets.open_image import open_image
from cafe.datasets.open_url import is_url, open_url
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Preprocess
from cafe.errors import CafeError, escape_bytes
from cafe.extract.decode import DecodedImage, decode_image
from cafe.extract.encode import (
    EncodedBatch,
    LoaderOptions,
    decode_and_encode,
    decoder_threads,
    encode_batch,
)

ImageSource = str | Path | Image.Image
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
    """

    names: list[str]
    reasons: list[str]
    inputs: Tensor


def list_images(
    images: ImageSource | Iterable[ImageSource], note: Callable[[str], None] | None = None
) -> list[ImageSource]:
    """List images; a folder stands for all images in it, sorted by name.

    Parameters
    ----------
    images : path, image, or iterable of these
    note : callable, optional
        Called with each line that tells what is left out of the folders.

    Raises
    ------
    CafeError
        If there is none, or a folder cannot be read.
    """
    sources = [images] if isinstance(images, str | Path | Image.Image) else images
    listed: list[ImageSource] = []
    left_out = LeftOut()
    for source in sources:
        if not isinstance(source, Image.Image) and Path(source).is_dir():
            listed += [str(Path(source) / name) for name in images_below(Path(source), left_out)]
        else:
            listed.append(source)
    if note is not None:
        for line in left_out.lines():
            note(line)
    if not listed:
        raise CafeError("no image is there; name image files, or folders with images in them.")
    return listed


def encode_images(
    encoder: Encoder, sources: Sequence[ImageSource], options: LoaderOptions
) -> Iterator[EncodedImages]:
    """Decode images ahead in threads, and encode them; few batches are in memory at a time.

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
    readers = (
        [partial(decode_source, source, encoder.preprocess) for source in sources[start:][:size]]
        for start in range(0, len(sources), size)
    )
    # all cores encode a batch together: a few images shall not wait for one core
    batches = decode_and_encode(
        encoder,
        readers,
        threads=options.workers or decoder_threads(),
        batch_size=size,
        spatial=options.spatial,
    )
    names = [
        f"image {number}" if isinstance(source, Image.Image) else escape_bytes(str(source))
        for number, source in enumerate(sources)
    ]
    done = 0
    for images, batch in batches:
        start, done = done, done + len(images)
        yield _encoded_images(names[start:done], images, batch, encoder)
        if options.progress is not None:
            options.progress("images", done, len(sources))


def decode_source(source: ImageSource, preprocess: Preprocess) -> DecodedImage:
    """Decode a file, what a URL names, or an image in memory, which stays open."""
    if isinstance(source, Image.Image):
        return decode_image(lambda: nullcontext(source), preprocess)
    if is_url(source):
        return decode_image(lambda: open_url(str(source)), preprocess)
    return decode_image(lambda: open_image(Path(source)), preprocess)


def read_pixels(encoder: Encoder, sources: Sequence[ImageSource]) -> Tensor:
    """The encoder's pixels of the images that can be read. (n, S, S, 3) uint8"""
    images = [decode_source(source, encoder.preprocess) for source in sources]
    views = [image.views[0] for image in images if image.views is not None]
    shape = (0, *encoder.preprocess.size, 3)
    return torch.from_numpy(np.stack(views) if views else np.empty(shape, np.uint8))


def head_inputs(batch: EncodedBatch) -> Tensor:
    """What a head takes of plain images: (n, D), or (n, 1 + T, D) with their spatial maps."""
    features = torch.from_numpy(batch.features)  # (n, 1, D)
    if batch.spatial is None:
        return features[:, 0]
    return torch.cat([features, torch.from_numpy(batch.spatial).float()], dim=1)


def pixel_inputs(encoder: Encoder, pixels: Tensor, spatial: int | None) -> Tensor:
    """What a head takes of preprocessed images (n, S, S, 3)."""
    images = [DecodedImage(image[None].numpy()) for image in pixels]
    return head_inputs(encode_batch(encoder, images, spatial))


def _encoded_images(
    names: list[str], images: Sequence[DecodedImage], batch: EncodedBatch, encoder: Encoder
) -> EncodedImages:
    """A batch for a head; images with numbers that are not finite get a reason instead."""
    reasons = [image.reason for image in images]
    read, finite = np.flatnonzero([not reason for reason in reasons]), batch.finite()
    for place in read[~finite]:
        reasons[place] = f"its feature is not finite in {encoder.precision}"
    return EncodedImages(names, reasons, head_inputs(batch)[torch.from_numpy(finite)])
