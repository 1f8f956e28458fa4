"""At which scale image files are decoded: of a large JPEG not all pixels need be computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Decode = Literal["exact", "scaled"]
"""All pixels of a file; or of a JPEG 1/2, 1/4 or 1/8 of each side (`Preprocess.scale`)."""

DECODING: Mapping[Decode, str] = {
    "exact": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB",
    "scaled": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB, scaled to >= 2x",
}
"""What a cache's key says of each, as its part `decoding`."""

TIMES = 2  # an antialiased resize to half hides how the image was scaled before
_SCALABLE = ("JPEG", "MPO")


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


def smallest_scale(image: Image.Image, least: tuple[int, int]) -> int:
    """Into how many a JPEG's sides may be divided so that neither is below a width and a height.

    Parameters
    ----------
    image : PIL.Image.Image
        Not yet decoded. Other formats have no scales.
    least : tuple of int
        Width and height, turned as the file is.

    Returns
    -------
    int
        1, 2, 4 or 8.
    """
    if image.format not in _SCALABLE:
        return 1
    most = min(image.width // least[0], image.height // least[1])
    return max((scale for scale in (2, 4, 8) if scale <= most), default=1)


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


def scale_file(image: Image.Image, scale: int, orientation: int) -> Scaled | None:
    """Have an opened JPEG decoded at 1/2, 1/4 or 1/8 of its sides.

    Parameters
    ----------
    image : PIL.Image.Image
        Not yet decoded.
    scale : int
        From `smallest_scale`.
    orientation : int
        From EXIF, 1 to 8.

    Returns
    -------
    Scaled or None
        None where all pixels will be decoded.
    """
    whole = width, height = image.size
    if scale > 1:
        image.draft(None, (width // scale, height // scale))
    if image.size == whole:
        return None
    box, (columns, rows) = (width / scale, height / scale), image.size
    if orientation >= 5:
        whole, box, columns, rows = whole[::-1], box[::-1], rows, columns
    left = columns - box[0] if orientation in (2, 3, 6, 7) else 0.0
    top = rows - box[1] if orientation in (3, 4, 7, 8) else 0.0
    return Scaled(whole, (left, top, left + box[0], top + box[1]))
