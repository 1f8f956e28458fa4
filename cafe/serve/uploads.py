"""Images that are sent: what is looked at, before any pixel is decoded."""

from __future__ import annotations

from cafe.datasets.open_image import open_image
from cafe.errors import one_line

MOST_PIXELS = 64_000_000
"""Of an image that is sent."""


def refusal(image: bytes) -> str:
    """Why an image that was sent is not looked at; "" where it may be."""
    try:
        with open_image(image) as opened:
            width, height = opened.size
    except Exception as error:
        return one_line(error)
    if width * height > MOST_PIXELS:
        return f"{width} x {height} pixels are more than the {MOST_PIXELS:,} that are taken"
    return ""
