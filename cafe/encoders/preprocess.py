"""From an opened image to the encoder's pixels: decoding, resizing, cropping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cafe.compat import import_open_clip
from cafe.encoders.augmentation import LEAST_SHARE, Augmentation
from cafe.encoders.crop_resize import Side, crop_resize
from cafe.encoders.decoding import SCALED, TIMES, Decode, Scaled, scale_file, smallest_scale
from cafe.encoders.quick_resize import quick_resize
from cafe.encoders.timm_steps import timm_steps
from cafe.encoders.to_rgb import to_rgb
from cafe.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_PIXELS = 1 << 27  # 134 million, 400 MB as RGB; a larger image may be an attack
_MOST_RESIZED = 1 << 24  # pixels of a resized image; of a larger one only the crop is computed
_LONGEST = 1 << 19  # a side; Pillow may take 2 KB for each pixel of a longer one to squash it
_ORIENTATION = 274  # the EXIF tag
_COLOURS = ("RGB", "RGBA", "LA", "CMYK")
"""Modes in which Pillow keeps 8 bits of 16."""


def upright_rgb(image: Image.Image, scale: int = 1) -> Image.Image:
    """Decode an image into upright RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode. The first frame of an animation is used, wide numbers are scaled to 8 bits
        (`cafe.encoders.to_rgb`), transparency is put on white, and the EXIF orientation is applied.
    scale : int
        Into how many the sides of a JPEG are divided while it is decoded; see `Preprocess.scale`.

    Returns
    -------
    PIL.Image.Image
        Mode RGB. From what it was scaled is in its `info`, under `SCALED`.

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
    orientation = _orientation(image)
    scaled = scale_file(image, scale, orientation)
    image.load()
    upright = to_rgb(image, orientation, sixteen_bits=sixteen_bits and image.mode in _COLOURS)
    if scaled is not None:
        upright.info[SCALED] = scaled
    return upright


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
        ignore_warnings_of_pillow()
        yield


def ignore_warnings_of_pillow() -> None:
    """Silence them for good, as in a process that does nothing else; see `quiet_pillow`."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Preprocess:
    """An encoder's preprocess up to 8-bit pixels.

    `Encoder.standardized` does the rest (mean and standard deviation) on the device, by the batch.

    Parameters
    ----------
    config : mapping
        open_clip's preprocess configuration: size, mean, std, interpolation, resize_mode,
        fill_color. `crop_pct`, the share of the resized side that is kept, is of timm's models.
    decode : {"exact", "scaled"}
        How image files are decoded.
    """

    def __init__(self, config: Mapping[str, Any], decode: Decode = "exact") -> None:
        self.config, self.decode = dict(config), decode
        size = config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        # timm resizes to more than it crops
        share = config.get("crop_pct", 1.0)
        self._target = math.floor(self.size[0] / share), math.floor(self.size[1] / share)
        self._mode: str = config.get("resize_mode") or "shortest"
        # an augmented crop has chosen its content: all of it is resized, and no more cropped
        self._crop_kernel = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        # open_clip resizes the shorter side to an oblong by its own default, timm does not
        is_oblong = self._mode == "shortest" and self.size[0] != self.size[1]
        by_default = is_oblong and "crop_pct" not in config
        self._kernel = "bicubic" if by_default else self._crop_kernel
        is_known = config["interpolation"] in ("bilinear", "bicubic")
        self._is_resize_and_crop = is_known and self._mode in ("shortest", "squash")

    def __reduce__(self) -> tuple[Any, ...]:
        """Small to send, and loads no library where it arrives."""
        return Preprocess, (self.config, self.decode)

    @cached_property
    def _steps(self) -> list[Any]:
        """open_clip's or timm's own transforms of an image, up to its 8-bit pixels."""
        open_clip = import_open_clip()
        from torchvision.transforms import ToTensor

        if "crop_pct" in self.config:
            steps = timm_steps(self.config)
        else:
            transform = open_clip.transform.image_transform_v2(
                open_clip.transform.PreprocessCfg(**self.config), is_train=False
            )
            steps = list(transform.transforms)
        return steps[: next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))]

    def decoding(self, decode: Decode) -> Preprocess:
        """The preprocess for image files that are decoded in this way."""
        return Preprocess(self.config, decode)

    def scale(self, image: Image.Image, augmentation: Augmentation | None = None) -> int:
        """Into how many the sides of an opened file are divided while it is decoded: 1, 2, 4 or 8.

        As many as leave twice the encoder's input, to an augmented view too.
        """
        if self.decode == "exact":
            return 1
        height, width = self._target
        if augmentation is not None and augmentation.views > 1:
            # a crop may be as narrow on either side of the image
            height = width = math.ceil(max(self.size) / LEAST_SHARE)
        least = TIMES * width, TIMES * height
        return smallest_scale(image, least[::-1] if _orientation(image) >= 5 else least)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one decoded image. (S, S, 3) uint8"""
        scaled: Scaled | None = image.info.get(SCALED)
        sides = self._sides(image.size, scaled)
        if scaled is None and self._mode == "shortest" and _is_large(*sides):
            return crop_resize(image, *sides, self._kernel)
        if self._is_resize_and_crop:
            return _resize_and_crop(image, *sides, self._kernel)
        steps = self._steps
        if scaled is not None:
            resample = Image.Resampling[self._kernel.upper()]
            image = image.resize(self._resized(*scaled.size), resample, scaled.box)
            steps = steps[1:]
        for step in steps:
            image = step(image)
        return np.asarray(image)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which an image is resized before it is cropped."""
        h, w = self._target
        if self._mode == "squash":
            return w, h
        if self._mode == "shortest" and h == w:  # as torchvision rounds
            short = min(width, height)
            return (w, h * height // short) if width == short else (w * width // short, h)
        choose = min if self._mode == "shortest" else max
        ratio = choose(height / h, width / w)  # as open_clip does
        return round(width / ratio), round(height / ratio)

    def _sides(self, size: tuple[int, int], scaled: Scaled | None = None) -> tuple[Side, Side]:
        """How each side of an image is resized and cropped; mode "longest" pads instead."""
        box = (0, 0, *size) if scaled is None else scaled.box
        h, w = self.size
        wide, high = self._resized(*(size if scaled is None else scaled.size))
        left, top = round((wide - w) / 2), round((high - h) / 2)  # as torchvision's CenterCrop
        return (
            Side(size[0], wide, left, w, box[0], box[2]),
            Side(size[1], high, top, h, box[1], box[3]),
        )

    def crop_pixels(self, crop: Image.Image) -> NDArray[np.uint8]:
        """Resize one augmented crop to the encoder's input. (S, S, 3) uint8"""
        (height, width), (w, h) = self.size, crop.size
        sides = Side(w, width, 0, width), Side(h, height, 0, height)
        return _resize_and_crop(crop, *sides, self._crop_kernel)


def _is_large(width: Side, height: Side) -> bool:
    return width.resized * height.resized > _MOST_RESIZED


def _resize_and_crop(
    image: Image.Image, width: Side, height: Side, kernel: str
) -> NDArray[np.uint8]:
    if max(image.size) > _LONGEST:
        raise ImageError(
            f"{image.width} x {image.height} pixels take too much memory to squash into "
            f"{width.resized} x {height.resized}; a side may have {_LONGEST:,}"
        )
    quick = quick_resize(image, width, height, kernel)
    if quick is not None:
        return quick
    (left, right), (top, bottom) = width.part, height.part
    size, box = (width.resized, height.resized), (left, top, right, bottom)
    resized = image.resize(size, Image.Resampling[kernel.upper()], box)
    ends = width.first + width.kept, height.first + height.kept
    crop = resized.crop((width.first, height.first, *ends))
    return np.asarray(crop if crop.mode == "RGB" else crop.convert("RGB"))
