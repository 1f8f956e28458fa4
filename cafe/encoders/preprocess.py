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

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP_SCALE = (0.5, 1.0)
"""Range of an augmented view's share of the image area (Tip-Adapter, arXiv 2111.03930: random
resized crop with this scale, then a horizontal flip with probability 1/2)."""

CROP_RATIO = (3 / 4, 4 / 3)

_MOST_PIXELS = 1 << 27  # 134 million, 400 MB as RGB; a larger image may be an attack
_ORIENTATION = 274  # the EXIF tag
_UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_UPRIGHT |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
"""EXIF orientation -> the transpose that turns the image upright."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an image into upright RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode. The first frame of an animation is used, 16-bit grey is scaled to 8 bits,
        transparency is put on white, and the EXIF orientation is applied.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    OSError
        If the file is truncated or no image.
    PIL.Image.DecompressionBombError
        If the image has more than 134 million pixels.
    """
    if image.width * image.height > _MOST_PIXELS:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels are more than {_MOST_PIXELS:,}"
        )
    image.load()
    turn = _UPRIGHT.get(_orientation(image))  # read first: a converted image has no EXIF
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data must not cost the image
        return 1


def _eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit grey to 8 bits; clip other wide types."""
    scaled = grey / 257 if grey.max(initial=0) > 255 else grey
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


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
        return np.asarray(self._geometry(image))

    def crop_pixels(self, crop: Image.Image) -> NDArray[np.uint8]:
        """Resize one augmented crop to the encoder's input. (S, S, 3) uint8"""
        return np.asarray(self._squash(crop))
