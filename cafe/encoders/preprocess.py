"""From an opened image to the encoder's pixels: decoding, resizing, augmented views."""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from cafe.compat import import_open_clip
from cafe.encoders.crop_resize import Side, crop_resize
from cafe.encoders.to_rgb import to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP_SCALE = (0.5, 1.0)
"""Range of an augmented view's share of the image area (Tip-Adapter, arXiv 2111.03930: random
resized crop with this scale, then a horizontal flip with probability 1/2)."""

CROP_RATIO = (3 / 4, 4 / 3)

_MOST_PIXELS = 1 << 27  # 134 million, 400 MB as RGB; a larger image may be an attack
_MOST_RESIZED = 1 << 24  # pixels of a resized image; of a larger one only the crop is computed
_ORIENTATION = 274  # the EXIF tag
_COLOURS = ("RGB", "RGBA", "LA", "CMYK")
"""Modes in which Pillow keeps 8 bits of 16."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an image into upright RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode. The first frame of an animation is used, wide numbers are scaled to 8 bits
        (`cafe.encoders.to_rgb`), transparency is put on white, and the EXIF orientation is applied.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    OSError
        If the file is truncated or no image.
    ImageError
        If its values are in no range that is known.
    PIL.Image.DecompressionBombError
        If the image has more than 134 million pixels.
    """
    if image.width * image.height > _MOST_PIXELS:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels are more than {_MOST_PIXELS:,}"
        )
    # read first: a decoded image has no tiles, and a converted one no EXIF
    sixteen_bits = image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", ""))
    image.load()
    return to_rgb(image, _orientation(image), sixteen_bits=sixteen_bits and image.mode in _COLOURS)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data must not cost the image
        return 1


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd files; images that cannot be read are recorded anyway.

    Enter it once per run, not per thread: warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@dataclass(frozen=True)
class Augmentation:
    """Augmented views of the training images: random resized crops and flips.

    Attributes
    ----------
    views : int
        Views per image, including the plain one: 1 is no augmentation.
    seed : int
        Seed of the crops. An image's crops depend on the seed and its id alone.
    """

    views: int = 1
    seed: int = 0

    def key(self) -> dict[str, Any] | None:
        """The augmentation in a cache's key; None without augmented views."""
        if self.views == 1:
            return None
        policy = f"resized crop {CROP_SCALE} ratio {CROP_RATIO[0]:.3f} to {CROP_RATIO[1]:.3f}, flip"
        return {"views": self.views, "seed": self.seed, "policy": policy}

    def crops(self, image: Image.Image, image_id: str) -> list[Image.Image]:
        """The augmented views of an image, without the plain one."""
        if self.views == 1:
            return []
        entropy = hashlib.sha256(
            f"{self.seed}\0{image_id}".encode("utf-8", "surrogateescape")
        ).digest()
        generator = random.Random(entropy)  # noqa: S311 - not cryptography
        return [_random_crop(image, generator) for _ in range(self.views - 1)]


def _random_crop(image: Image.Image, generator: random.Random) -> Image.Image:
    width, height = image.size
    area = width * height * generator.uniform(*CROP_SCALE)
    ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = generator.randint(0, width - w), generator.randint(0, height - h)
    crop = image.crop((left, top, left + w, top + h))
    return ImageOps.mirror(crop) if generator.random() < 0.5 else crop


class Preprocess:
    """An encoder's preprocess up to 8-bit pixels.

    `Encoder.standardized` does the rest (mean and standard deviation) on the device, by the batch.

    Parameters
    ----------
    config : mapping
        open_clip's preprocess configuration: size, mean, std, interpolation, resize_mode,
        fill_color.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        open_clip = import_open_clip()
        from torchvision.transforms import Compose, InterpolationMode, Resize, ToTensor

        self.config = dict(config)
        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**config), is_train=False
        )
        steps = list(transform.transforms)
        tensor_at = next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))
        self._geometry = Compose(steps[:tensor_at])
        size = config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        # an augmented crop has chosen its content: resize all of it, crop no more
        bilinear = config["interpolation"] == "bilinear"
        mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
        self._squash = Resize(self.size, mode)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one decoded image. (S, S, 3) uint8"""
        sides = self._sides_of_sliver(*image.size)
        if sides is None:
            return np.asarray(self._geometry(image))
        is_square = self.size[0] == self.size[1]  # open_clip resizes others by its own default
        return crop_resize(image, *sides, self.config["interpolation"] if is_square else "bicubic")

    def _sides_of_sliver(self, width: int, height: int) -> tuple[Side, Side] | None:
        """How an image is resized and cropped of which hardly anything is kept; None for others."""
        if self.config.get("resize_mode", "shortest") != "shortest":
            return None
        h, w = self.size
        if h == w:  # as torchvision rounds
            short = min(width, height)
            resized = (w, h * height // short) if width == short else (w * width // short, h)
        else:  # as open_clip does
            ratio = min(height / h, width / w)
            resized = round(width / ratio), round(height / ratio)
        if resized[0] * resized[1] <= _MOST_RESIZED:
            return None
        left, top = round((resized[0] - w) / 2), round((resized[1] - h) / 2)
        return Side(width, resized[0], left, w), Side(height, resized[1], top, h)

    def crop_pixels(self, crop: Image.Image) -> NDArray[np.uint8]:
        """Resize one augmented crop to the encoder's input. (S, S, 3) uint8"""
        return np.asarray(self._squash(crop))
