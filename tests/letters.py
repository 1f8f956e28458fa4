"""Photographs of letters, which `nano` can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_letter(letter: str, seed: int) -> Image.Image:
    """A letter in some place and grey."""
    noise = np.random.default_rng(seed)
    image = Image.new("L", (64, 64), int(noise.integers(230, 255)))
    place = tuple(noise.integers(6, 12, 2).tolist())
    font = ImageFont.load_default(int(noise.integers(44, 50)))
    ImageDraw.Draw(image).text(place, letter, int(noise.integers(0, 40)), font=font)
    return image


def draw_letters(root: Path, letters: str, count: int, start: int = 0) -> None:
    """JPEGs in a folder per letter."""
    for number, letter in enumerate(letters):
        (root / letter).mkdir(parents=True, exist_ok=True)
        for row in range(start, start + count):
            draw_letter(letter, 1000 * number + row).save(root / letter / f"{row}.jpg")
