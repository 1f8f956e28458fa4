"""New images -> features, a batch at a time and in order; knows no dataset and stores nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cafe.datasets.folder import images_below
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Preprocess, upright_rgb
from cafe.encoders.spatial import encode_spatial
from cafe.errors import CafeError, InputError
from cafe.extract.decode import ahead

Progress = Callable[[str, int, int], None]
"""Called with a stage, the images done and the images in all."""

ImageSource = str | Path | Image.Image
_Pixels = NDArray[np.uint8] | str  # (S, S, 3), or the reason why there are none
_BATCH, _CUDA_BATCH = 32, 256


class EncodedImages(NamedTuple):
    """A batch of images as the encoder saw it.

    Attributes
    ----------
    names : list of str
        As they were named; images in memory are numbered. Length n.
    reasons : list of str
        Why an image has no feature; "" where it has. Length n.
    features : Tensor
        Raw features of those that have, in order (m, D); with their maps (m, 1 + T, D), where
        these were asked for.
    """

    names: list[str]
    reasons: list[str]
    features: Tensor


@dataclass(frozen=True)
class LoaderOptions:
    """How images are read.

    Attributes
    ----------
    batch_size : int or None
        Images per forward pass; None is 32, or 256 on CUDA.
    workers : int or None
        Threads that decode; None takes one per core, 16 at most.
    progress : callable or None
        Called after every batch.
    pool : int or None
        Largest side of the spatial maps; None makes none.
    """

    batch_size: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    pool: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")


def list_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """The images that are meant: folders stand for all images in them, sorted by name.

    Parameters
    ----------
    images : path, image, or iterable of these

    Raises
    ------
    CafeError
        If there is none, or a folder cannot be read.
    """
    sources = [images] if isinstance(images, str | Path | Image.Image) else images
    found: list[ImageSource] = []
    for source in sources:
        if not isinstance(source, Image.Image) and Path(source).is_dir():
            found += [str(Path(source) / name) for name in images_below(Path(source))]
        else:
            found.append(source)
    if not found:
        raise CafeError("no image is there; name image files, or folders with images in them.")
    return found


def encode_images(
    encoder: Encoder, sources: Sequence[ImageSource], options: LoaderOptions
) -> Iterator[EncodedImages]:
    """Decode ahead in threads, and encode; a few batches are in memory at a time.

    Parameters
    ----------
    encoder : Encoder
    sources : sequence of path or image
        As `list_images` gives them.
    pace : LoaderOptions

    Yields
    ------
    EncodedImages
        A batch.
    """
    size = options.batch_size or (_CUDA_BATCH if encoder.device.type == "cuda" else _BATCH)
    threads = options.workers or min(os.cpu_count() or 1, 16)
    batches = (sources[start : start + size] for start in range(0, len(sources), size))
    done = 0
    for batch, pixels in ahead(lambda b: decode_all(b, encoder.preprocess), batches, threads):
        names = [_name(source, done + place) for place, source in enumerate(batch)]
        yield _encode(encoder, names, pixels, options.pool)
        done += len(batch)
        if options.progress is not None:
            options.progress("images", done, len(sources))


def read_pixels(encoder: Encoder, sources: Sequence[ImageSource]) -> Tensor:
    """The encoder's pixels of the images that can be read. (n, S, S, 3) uint8"""
    found = [p for p in decode_all(sources, encoder.preprocess) if not isinstance(p, str)]
    shape = (0, *encoder.preprocess.size, 3)
    return torch.from_numpy(np.stack(found) if found else np.empty(shape, np.uint8))


def decode_all(sources: Sequence[ImageSource], preprocess: Preprocess) -> list[_Pixels]:
    """The encoder's pixels of each image, or the reason why there are none."""
    return [_pixels(source, preprocess) for source in sources]


def _pixels(source: ImageSource, preprocess: Preprocess) -> _Pixels:
    try:
        if isinstance(source, Image.Image):
            return preprocess.pixels(upright_rgb(source))
        with Image.open(source) as file:
            return preprocess.pixels(upright_rgb(file))
    except FileNotFoundError:
        return "there is no such file"
    except Exception as error:  # a decoder may raise anything on a damaged file
        return " ".join(f"{type(error).__name__}: {error}".split())


def inputs_of(encoder: Encoder, pixels: Tensor, pool: int | None) -> Tensor:
    """What a head takes of preprocessed images (m, S, S, 3): (m, D), or with maps (m, 1 + T, D)."""
    if pool is None:
        return encoder.encode_pixels(pixels)
    features, maps = encode_spatial(encoder, pixels, pool)
    return torch.cat([features[:, None], maps.float()], dim=1)


def _name(source: ImageSource, number: int) -> str:
    return f"image {number}" if isinstance(source, Image.Image) else str(source)


def _encode(
    encoder: Encoder, names: list[str], pixels: Sequence[_Pixels], pool: int | None
) -> EncodedImages:
    reasons = [found if isinstance(found, str) else "" for found in pixels]
    read = [found for found in pixels if not isinstance(found, str)]
    if not read:
        return EncodedImages(names, reasons, torch.empty(0, encoder.width))
    features = inputs_of(encoder, torch.from_numpy(np.stack(read)), pool)
    finite = features.isfinite().flatten(1).all(dim=1)
    places = [place for place, reason in enumerate(reasons) if not reason]
    for place, good in zip(places, finite.tolist(), strict=True):
        if not good:
            reasons[place] = f"its feature is not finite in {encoder.precision}"
    return EncodedImages(names, reasons, features[finite])
