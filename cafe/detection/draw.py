"""Images with boxes and their labels, legible at any size; knows no head."""

from __future__ import annotations

import colorsys
import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cafe.datasets.open_image import open_image
from cafe.encoders.preprocess import upright_rgb
from cafe.errors import visible
from cafe.store.files import write_file

SHORTEST, LONGEST = 480, 2048
"""Sides of a drawing in pixels: small images are enlarged, and large ones made smaller."""

LEAST = 160, 48
"""Width and height of a drawing at least; beside an image of odd shape it is grey."""

_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",  # macOS
    "Hiragino Sans GB.ttc",
    "msyh.ttc",  # Windows
    "arial.ttf",
    "seguisym.ttf",
)
"""Fonts by the names under which systems have them; Pillow's own knows Latin letters alone."""

_GOLDEN = 0.61803398875  # of the circle of hues: neighbours in the list of classes differ most


class LabelledBox(NamedTuple):
    """A box with what stands on it.

    Attributes
    ----------
    xywh : ndarray
        Pixels of the upright image. (4,)
    label : str
    number : int
        Of the class, which gives the colour.
    score : float
    """

    xywh: NDArray[np.float64]
    label: str
    number: int
    score: float


def draw_boxes(image: Image.Image, boxes: Iterable[LabelledBox]) -> Image.Image:
    """Draw boxes on an image.

    Parameters
    ----------
    image : PIL.Image.Image
        Upright, RGB.
    boxes : iterable of LabelledBox
        The surest on top of the others.

    Returns
    -------
    PIL.Image.Image
        Its sides are from `SHORTEST` to `LONGEST` where its shape allows, and never below `LEAST`.
    """
    drawn, factor = _resized(image)
    pen = ImageDraw.Draw(drawn)
    size = max(14, min(drawn.size) // 36)
    width = max(2, min(drawn.size) // 240)
    listed = sorted(boxes, key=lambda box: box.score)
    for box in listed:
        left, top, right, bottom = _corners(box.xywh * factor, drawn.size)
        pen.rectangle((left, top, right, bottom), outline=_colour(box.number), width=width)
    for box in listed:  # after all boxes, so that no line crosses a label
        _write(pen, box, _corners(box.xywh * factor, drawn.size), size, drawn.size)
    return drawn


def save_drawing(source: Path, target: Path, boxes: Iterable[LabelledBox]) -> None:
    """Draw boxes on an image file, upright, and write a JPEG file in one step.

    Raises
    ------
    OSError
        If the image cannot be read or the drawing not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_image(source) as file:
        drawn = draw_boxes(upright_rgb(file), boxes)
    with write_file(target) as stream:
        drawn.save(stream, "JPEG", quality=90)


def _resized(image: Image.Image) -> tuple[Image.Image, float]:
    factor = min(max(1.0, SHORTEST / min(image.size)), LONGEST / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    if width >= LEAST[0] and height >= LEAST[1]:
        return small, factor
    canvas = Image.new("RGB", (max(width, LEAST[0]), max(height, LEAST[1])), "grey")
    canvas.paste(small)
    return canvas, factor


def _corners(xywh: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom inside of the image, at least a pixel apart."""
    left, top = (min(max(0, round(float(xywh[i]))), size[i] - 1) for i in (0, 1))
    right, bottom = (
        min(max(start, round(float(xywh[i] + xywh[i + 2]))), size[i] - 1)
        for i, start in ((0, left), (1, top))
    )
    return left, top, right, bottom


def _write(
    pen: ImageDraw.ImageDraw,
    box: LabelledBox,
    corners: tuple[int, int, int, int],
    size: int,
    image: tuple[int, int],
) -> None:
    """Write a label above its box, or where there is no room below the upper edge."""
    text = f"{printable(box.label, box.number)} {box.score:.2f}"
    font = font_for(text, size)
    text = _cut(text, font, image[0])
    extent = font.getbbox(text)
    wide, high = round(extent[2]) + 6, round(extent[3]) + 6
    left = max(0, min(corners[0], image[0] - wide))
    top = corners[1] - high if corners[1] >= high else corners[1]
    top = max(0, min(top, image[1] - high))
    colour = _colour(box.number)
    pen.rectangle((left, top, left + wide, top + high), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    pen.text((left + 3, top + 2), text, fill="white" if dark else "black", font=font)


def _cut(text: str, font: Any, width: int) -> str:
    """A text that is no wider than the image."""
    if font.getlength(text) <= width - 6:
        return text
    while len(text) > 1 and font.getlength(f"{text}...") > width - 6:
        text = text[:-1]
    return f"{text}..."


def _colour(number: int) -> tuple[int, int, int]:
    """The colour of a class."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def printable(label: str, number: int) -> str:
    """A label as it can be drawn: where no font has its letters, the number of its class."""
    label = visible(label)
    return label if _font_name(label) is not None else f"class {number}"


def unprintable(labels: Sequence[str]) -> list[str]:
    """The labels that no font of this machine has all letters for."""
    return [label for label in labels if _font_name(visible(label)) is None]


def font_for(text: str, size: int) -> Any:
    """A font that has the letters of a text."""
    return _font(_font_name(text) or "", size)


@functools.lru_cache(maxsize=256)
def _font_name(text: str) -> str | None:
    """The first font that has all letters of a text: "" for Pillow's own, None for none."""
    for name in ("", *_FONTS):
        font = _font(name, 24)
        if font is not None and _has_all(font, text):
            return name
    return None


@functools.lru_cache(maxsize=64)
def _font(name: str, size: int) -> Any:
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


def _has_all(font: Any, text: str) -> bool:
    """Whether each letter is drawn other than one that no font has."""
    missing = {_picture(font, "\U0010fffd"), _picture(font, "\ufffe")}
    return all(letter.isspace() or _picture(font, letter) not in missing for letter in set(text))


def _picture(font: Any, letter: str) -> tuple[Any, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = font.getmask(letter)
    return mask.size, bytes(mask)
