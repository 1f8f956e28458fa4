"""Listing images that a caller names: files, folders, images of Pillow, arrays, tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cafe.datasets.left_out import LeftOut
from cafe.datasets.list_folder import images_below
from cafe.encoders.to_rgb import image_of_array
from cafe.errors import CafeError, InputError
from cafe.progress import Note, log

ImageSource = str | bytes | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""A file, what is in one (bytes), an image of Pillow, or its numbers: an array (H, W, C) or (H, W),
a tensor (C, H, W) or (H, W). See `cafe.encoders.to_rgb.image_of_array` for types and ranges."""

Images = ImageSource | Iterable[ImageSource]
"""One image or several; folders, batches (N, H, W, C) and (N, C, H, W), and columns of a table."""


def list_images(images: Images, note: Note | None = None) -> list[ImageSource]:
    """List images; a folder stands for all images in it, sorted by name.

    Parameters
    ----------
    images : path, image, array, tensor, or iterable of these
    note : callable, optional
        Called with each line that tells what is left out of the folders; None logs it.

    Raises
    ------
    CafeError
        If there is none, or a folder cannot be read.
    InputError
        If something can be no image.
    """
    listed: list[ImageSource] = []
    left_out = LeftOut()
    for source in _sources(images):
        if not isinstance(source, str | bytes | os.PathLike | Image.Image | np.ndarray | Tensor):
            raise InputError(
                f"image {len(listed)} is of type {type(source).__name__}; give paths, images of "
                "Pillow, arrays or tensors."
            )
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):  # noqa: PTH112  # any text
            listed += [str(Path(source) / name) for name in images_below(Path(source), left_out)]
        else:
            listed.append(source)
    for line in left_out.lines():
        (note or log.info)(line)
    if not listed:
        raise CafeError("no image is there; name image files, or folders with images in them.")
    return listed


def _sources(images: Images) -> Iterable[ImageSource]:
    """What is named, one by one, before folders are opened."""
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, Tensor):
        return list(images) if images.ndim == 4 else [images]
    if hasattr(images, "__array__"):  # of numpy, pandas and others
        values = np.asarray(images)
        if values.dtype.kind in "OUT":
            if values.ndim > 1 and values.shape[1:] != (1,):
                raise InputError(f"a table of shape {values.shape} is no image; give one column.")
            return list(values.ravel())
        return list(values) if values.ndim == 4 else [values]
    return images if isinstance(images, Iterable) else [images]


def to_image(values: NDArray[Any] | Tensor) -> Image.Image:
    """The image whose numbers an array or a tensor holds; see `image_of_array`."""
    if not isinstance(values, Tensor):
        return image_of_array(values, values.shape)
    numbers = values.detach().cpu()
    array: NDArray[Any] = (numbers.float() if numbers.is_floating_point() else numbers).numpy()
    last = np.moveaxis(array, 0, -1) if array.ndim == 3 else array  # (H, W, C)
    return image_of_array(last, tuple(values.shape))
