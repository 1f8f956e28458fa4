"""From an image file to the encoder's pixels: decoding, upright RGB, resizing, augmented views."""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from cafe.vision import import_open_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP_SCALE = (0.5, 1.0)
"""Share of the area that an augmented view shows (Tip-Adapter, arXiv 2111.03930: random resized
crop with this scale, then a horizontal flip in half of the views)."""

CROP_RATIO = (3 / 4, 4 / 3)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an image into upright RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode; of an animation the first frame counts. 16-bit grey is scaled to 8 bits,
        transparency is shown on white, the EXIF orientation is applied.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    OSError
        If the file is truncated or no image.
    PIL.Image.DecompressionBombError
        If the image has more pixels than Pillow's limit.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return ImageOps.exif_transpose(image).convert("RGB")


def _eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit grey keeps its high byte; other wide types are clipped."""
    scaled = grey / 257 if grey.max(initial=0) > 255 else grey
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def decode(image: Image.Image) -> Image.Image:
    """`upright_rgb`, with Pillow's warning of a huge image taken for the error that it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return upright_rgb(image)


@dataclass(frozen=True)
class Augmentation:
    """Augmented views of the training images: random resized crops and flips.

    Attributes
    ----------
    views : int
        Views per image, the plain one counted: 1 is no augmentation.
    seed : int
        Seed of the crops; each image's depend on (seed, its id) alone.
    """

    views: int = 1
    seed: int = 0

    def key(self) -> dict[str, Any] | None:
        """The augmentation as part of a cache's key; None without augmented views."""
        if self.views == 1:
            return None
        policy = f"resized crop {CROP_SCALE} ratio {CROP_RATIO[0]:.3f} to {CROP_RATIO[1]:.3f}, flip"
        return {"views": self.views, "seed": self.seed, "policy": policy}

    def crops(self, image: Image.Image, image_id: str) -> list[Image.Image]:
        """The augmented views of an image, without the plain one."""
        entropy = hashlib.sha256(f"{self.seed}\0{image_id}".encode()).digest()
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
    """An encoder's preprocess up to 8-bit pixels; the affine rest runs on the device, batched.

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
        # a crop already has its content chosen: it is resized to the full input
        self._squash = Resize(self.size, InterpolationMode(config["interpolation"]))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one decoded image. (S, S, 3) uint8"""
        return np.asarray(self._geometry(image))

    def crop_pixels(self, crop: Image.Image) -> NDArray[np.uint8]:
        """Resize one augmented crop to the encoder's input. (S, S, 3) uint8"""
        return np.asarray(self._squash(crop))
