"""At which scale image files are decoded: of a large JPEG not all pixels need be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Decode = Literal["exact", "scaled"]
"""All pixels of a file; or of a JPEG 1/2, 1/4 or 1/8 of each side, not below `least_size`."""

DECODING: Mapping[Decode, str] = {
    "exact": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB",
    "scaled": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB, scaled to >= 2x",
}
"""What a cache's key says of each, as its part `decoding`."""

_TIMES = 2  # an antialiased resize to half hides how the image was scaled before


def check_decode(decode: str) -> None:
    """Refuse all but "auto", "exact" and "scaled".

    Raises
    ------
    InputError
        If it is another one.
    """
    if decode not in ("auto", *get_args(Decode)):
        raise InputError(f"unknown decode '{decode}'; use auto, exact or scaled.")


def decode_of(key: Mapping[str, Any]) -> Decode | None:
    """How the images of a cache with this key were decoded; None where it does not say."""
    named: dict[Any, Decode] = {text: decode for decode, text in DECODING.items()}
    return named.get(key.get("decoding"))


def least_size(size: tuple[int, int], share: float) -> tuple[int, int]:
    """The least width and height of an upright image that is scaled while it is decoded.

    Parameters
    ----------
    size : tuple of int
        Height and width of the encoder's input.
    share : float
        Of the image's side, the least that is resized to the input; see `Augmentation.least_share`.
    """
    # a crop may be as narrow on either side of the image
    height, width = size if share == 1 else (max(size), max(size))
    return math.ceil(_TIMES * width / share), math.ceil(_TIMES * height / share)


class Scaled(NamedTuple):
    """From what an upright image was scaled while it was decoded.

    Attributes
    ----------
    size : tuple of int
        Width and height of all pixels.
    box : tuple of float
        Left, top, right and bottom of these in the scaled image. Where the scale divides no side,
        the last pixels of the file fill a part of a pixel.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]


SCALED = "cafe_scaled"
"""Where an image that was scaled while it was decoded keeps from what, in its `info`."""


def scale_file(image: Image.Image, least: tuple[int, int], orientation: int) -> Scaled | None:
    """Have an opened image decoded at the smallest scale that its format has for the size.

    Parameters
    ----------
    image : PIL.Image.Image
        Not yet decoded; a JPEG, as others have no scales.
    least : tuple of int
        Width and height, of the upright image.
    orientation : int
        From EXIF, 1 to 8.

    Returns
    -------
    Scaled or None
        None where all pixels will be decoded.
    """
    is_turned, whole = orientation >= 5, image.size
    drafted = image.draft(None, least[::-1] if is_turned else least)
    if drafted is None or image.size == whole:
        return None
    (_, _, width, height), (columns, rows) = drafted[1], image.size
    if is_turned:
        whole, width, height, columns, rows = whole[::-1], height, width, rows, columns
    left = columns - width if orientation in (2, 3, 6, 7) else 0.0
    top = rows - height if orientation in (3, 4, 7, 8) else 0.0
    return Scaled(whole, (left, top, left + width, top + height))
