"""Augmented views of images: random resized crops and flips, of a seed and an image's id alone."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from cafe.errors import InputError

CROP_SCALE = (0.5, 1.0)
"""Range of an augmented view's share of the image area (Tip-Adapter, arXiv 2111.03930: random
resized crop with this scale, then a horizontal flip with probability 1/2)."""

CROP_RATIO = (3 / 4, 4 / 3)
LEAST_SHARE = math.sqrt(CROP_SCALE[0] * CROP_RATIO[0])
"""The least share of an image's shorter side that a side of a crop has."""


def check_view_splits(splits: Sequence[str], views: int) -> tuple[str, ...]:
    """The splits that get augmented views, each once and in their own order.

    Raises
    ------
    InputError
        If one is unknown, there is none, or there are no views to make.
    """
    known = ("train", "val", "test")
    if not splits or not set(splits) <= set(known):
        raise InputError(f"view_splits={','.join(splits)} must be among {', '.join(known)}.")
    if views == 1 and set(splits) != {"train"}:
        raise InputError("view_splits= needs views= above 1: one view is the plain image.")
    return tuple(split for split in known if split in splits)


@dataclass(frozen=True)
class Augmentation:
    """Augmented views of images: random resized crops and flips.

    Attributes
    ----------
    views : int
        Views per image, including the plain one: 1 is no augmentation.
    seed : int
        Seed of the crops. An image's crops depend on the seed and its id alone.
    splits : tuple of str
        The splits whose images have augmented views.
    """

    views: int = 1
    seed: int = 0
    splits: tuple[str, ...] = ("train",)

    def key(self) -> dict[str, Any] | None:
        """The augmentation in a cache's key; None without augmented views."""
        if self.views == 1:
            return None
        policy = f"resized crop {CROP_SCALE} ratio {CROP_RATIO[0]:.3f} to {CROP_RATIO[1]:.3f}, flip"
        key = {"views": self.views, "seed": self.seed, "policy": policy}
        # caches that are there know of none but the training split
        return key if self.splits == ("train",) else {**key, "splits": list(self.splits)}

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
