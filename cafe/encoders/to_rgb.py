"""Images of every mode as RGB of 8 bits, a strip at a time, so that no mode takes more memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cafe.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Strip = Callable[[Image.Image], Image.Image]
"""Makes RGB of a part of an image."""

_STRIP_PIXELS = 1 << 22

_WHITE = tuple((1 << bits) - 1 for bits in (8, 10, 12, 14, 16))
"""What white may be in numbers of more than 8 bits: cameras give 10 to 14, in files of 16 or 32."""

_BLACK = 16
"""A picture that stays below this, of 255, is taken for one of another range, not for dark."""

_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of TIFF: 0 is white first, 2 is signed

_UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_UPRIGHT |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
"""EXIF orientation -> the transpose that turns the image upright."""


def to_rgb(image: Image.Image, orientation: int, *, sixteen_bits: bool = False) -> Image.Image:
    """Make RGB of a decoded image, and turn it upright.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode, loaded.
    orientation : int
        From EXIF, 1 to 8.
    sixteen_bits : bool
        Whether the file holds colours of 16 bits, of which Pillow keeps the upper 8.

    Raises
    ------
    ImageError
        If the values are in no range that is known.
    """
    if sixteen_bits:
        _check_upper_bits(image)
    convert = _conversion(image)
    if image.mode == "RGB" and convert is _plain:
        return _turn(image, orientation)
    if image.width * image.height <= _STRIP_PIXELS:
        return _turn(convert(image), orientation)
    is_turned, from_end = orientation >= 5, orientation in (3, 4, 6, 7)
    canvas = Image.new("RGB", image.size[::-1] if is_turned else image.size)
    for top, bottom in _strips(image):
        strip = _turn(convert(image.crop((0, top, image.width, bottom))), orientation)
        start = image.height - bottom if from_end else top
        canvas.paste(strip, (start, 0) if is_turned else (0, start))
    return canvas


def _strips(image: Image.Image) -> Iterator[tuple[int, int]]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    name = _UPRIGHT.get(orientation)
    return image if name is None else image.transpose(Image.Transpose[name])


def _conversion(image: Image.Image) -> Strip:
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I") or image.mode == "F":
        white = _white(*_extremes(image), is_float=image.mode == "F")
        if tags.get(_PHOTOMETRIC) == 0:  # of wide numbers Pillow leaves it to us
            return lambda strip: _plain(
                Image.fromarray(255 - _eight_bits(np.asarray(strip), white))
            )
        return lambda strip: _plain(Image.fromarray(_eight_bits(np.asarray(strip), white)))
    if 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise ImageError("its numbers are signed, from -128 to 127; convert it to 0 to 255")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _on_white
    return _plain


def _plain(strip: Image.Image) -> Image.Image:
    return strip if strip.mode == "RGB" else strip.convert("RGB")


def _on_white(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The lowest and the highest value; not a number where one is none."""
    parts = (np.asarray(image.crop((0, a, image.width, b))) for a, b in _strips(image))
    pairs = np.array([(part.min(), part.max()) for part in parts], np.float64)
    return float(pairs[:, 0].min()), float(pairs[:, 1].max())


def _white(low: float, high: float, *, is_float: bool) -> float:
    """The value that is white: 1 of floats from 0 to 1, else the highest of 8 to 16 bits."""
    is_share = is_float and 0 < high <= 1
    fitting = (1.0,) if is_share else tuple(white for white in _WHITE if white >= high)
    if not (math.isfinite(high) and low >= 0 and fitting) or 0 < high / fitting[0] < _BLACK / 255:
        raise ImageError(
            f"its values, {low:g} to {high:g}, are in no range that is known (0 to 1, or 8, 10, "
            "12, 14 or 16 bits); convert it to 8 bits"
        )
    return fitting[0]


def _eight_bits(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    # a division where it is exact: 65535 / 257 is 255
    scaled = values / 257 if white == _WHITE[-1] else values * (255 / white)
    return np.rint(scaled).astype(np.uint8)


def _check_upper_bits(image: Image.Image) -> None:
    """Refuse colours of 16 bits that use the lower 12 alone: what Pillow keeps of them is black."""
    extremes: Any = image.getextrema()
    bands = extremes if isinstance(extremes[0], tuple) else (extremes,)
    colours = bands[: len(bands) - (image.mode in ("RGBA", "LA"))]
    if max(high for _, high in colours) < _BLACK:
        raise ImageError(
            "its colours have 16 bits and use 12 or fewer, of which Pillow keeps the upper 4; "
            "convert it to 8 bits"
        )


def image_of_array(values: NDArray[Any], shape: tuple[int, ...]) -> Image.Image:
    """Make an image of its numbers.

    Parameters
    ----------
    values : ndarray
        (H, W), or (H, W, C) of 1, 3 or 4 channels: grey, RGB, or RGB and opacity. Numbers of 8
        bits are taken as they are; floats are from 0 to 1; wider ones by the range of what files
        hold (`to_rgb`): 8, 10, 12, 14 or 16 bits. False is black.
    shape : tuple of int
        As the user knows it, for the message: a tensor's channels come first.

    Raises
    ------
    ImageError
        If the shape is that of no image, or the values are in no range that is known.
    """
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_image = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if not is_image or not values.size or values.dtype.kind not in "buif":
        raise ImageError(
            f"{values.dtype} of shape {shape} is no image: an array is (H, W) or (H, W, C), "
            "a tensor (H, W) or (C, H, W), with 1, 3 or 4 channels"
        )
    if values.dtype == np.bool_:
        values = values * np.uint8(255)
    elif values.dtype != np.uint8:
        low, high, is_float = float(values.min()), float(values.max()), values.dtype.kind == "f"
        # in memory, unlike in a file, floats up to 1 are a share of white, however dark
        is_share = is_float and low >= 0 and high <= 1
        values = _eight_bits(values, 1.0 if is_share else _white(low, high, is_float=is_float))
    return Image.fromarray(np.ascontiguousarray(values))
