"""Features of boxes on image files: each image is decoded once for all of its boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.open_image import open_image
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import upright_rgb
from cafe.errors import ImageError
from cafe.extract.crops import crop_square
from cafe.extract.decode import DecodedImage, map_ahead
from cafe.extract.encode import LoaderOptions, encode_batch
from cafe.extract.pipeline import decoder_threads

_BATCH, _CUDA_BATCH = 32, 256  # crops of a forward pass


class EncodedBoxes(NamedTuple):
    """Features of some boxes of one image.

    Attributes
    ----------
    image : int
        Row of the image in its boxes.
    rows : ndarray
        Rows of the boxes. (n,)
    features : Tensor
        Raw; the mean over the crops of a box. (n, D)
    is_last : bool
        Whether these are the last of the image.
    reason : str
        Why the image cannot be read; "" where it can.
    """

    image: int
    rows: NDArray[np.int64]
    features: Tensor
    is_last: bool
    reason: str = ""


class _Crops(NamedTuple):
    """The encoder's pixels of some boxes of an image. (n, V, S, S, 3)"""

    image: int
    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    is_last: bool
    reason: str = ""


def encode_boxes(
    encoder: Encoder,
    boxes: Boxes,
    root: Path,
    contexts: Sequence[float],
    options: LoaderOptions,
) -> Iterator[EncodedBoxes]:
    """Encode the crops of boxes, image by image; few crops are in memory at a time.

    Parameters
    ----------
    encoder : Encoder
    boxes : Boxes
        On their images, in pixels.
    root : Path
        Folder of the images.
    contexts : sequence of float
        Side of each crop, in units of the longer side of the box. (V,)
    options : LoaderOptions
        `batch_size` counts crops.

    Yields
    ------
    EncodedBoxes
        Every image that has a box, in order, in one part or more.
    """
    size = options.batch_size or (_CUDA_BATCH if encoder.device.type == "cuda" else _BATCH)
    order = np.argsort(boxes.image, kind="stable")
    images, starts = np.unique(boxes.image[order], return_index=True)
    groups = list(zip(images.tolist(), np.split(order, starts[1:]), strict=True))
    threads = options.workers or decoder_threads()
    step = max(1, size // len(contexts))

    def crops(group: tuple[int, NDArray[np.int64]]) -> list[_Crops] | Iterator[_Crops]:
        image, rows = group
        try:
            decoded = _decode(root / boxes.images[image])
        except Exception as error:  # Pillow's decoders raise anything on a damaged file
            return [_Crops(image, rows, np.empty(0, np.uint8), True, _reason(error))]
        parts = _cut(decoded, group, boxes, contexts, encoder, step)
        # those of an image with very many boxes wait to be cut until they are asked for
        return list(parts) if len(rows) <= 4 * step else parts

    done = 0
    for parts in map_ahead(crops, groups if len(order) else [], threads):
        for part in parts:
            features = torch.zeros(len(part.rows), encoder.width)
            if not part.reason:
                features = _encode(encoder, part.pixels)
            yield EncodedBoxes(part.image, part.rows, features, part.is_last, part.reason)
            done += len(part.rows)
            if options.progress is not None:
                options.progress("boxes", done, len(order))


def _decode(path: Path) -> Image.Image:
    """The upright image, all pixels: a box may be any part of it."""
    with open_image(path) as file:
        return upright_rgb(file)


def _cut(
    image: Image.Image,
    group: tuple[int, NDArray[np.int64]],
    boxes: Boxes,
    contexts: Sequence[float],
    encoder: Encoder,
    step: int,
) -> Iterator[_Crops]:
    (number, rows), whole = group, np.asarray(image)
    preprocess = encoder.preprocess.decoding("exact")
    pixels_of = preprocess.pixels
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        pixels = [
            np.stack([pixels_of(crop_square(whole, xywh, c, preprocess)) for c in contexts])
            for xywh in map(tuple, boxes.xywh[some].tolist())
        ]
        yield _Crops(number, some, np.stack(pixels), start + step >= len(rows))


def _encode(encoder: Encoder, pixels: NDArray[np.uint8]) -> Tensor:
    """The mean feature over the crops of each box. (n, D)"""
    batch = encode_batch(encoder, [DecodedImage(views) for views in pixels], None)
    return torch.from_numpy(batch.features).mean(dim=1)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, ImageError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
