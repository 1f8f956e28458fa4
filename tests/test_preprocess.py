"""Images of every kind become the pixels that open_clip's own transform would give."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import draw_image
from PIL import Image

from cafe.compat import import_open_clip
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Preprocess, quiet_pillow, upright_rgb

CONFIG: dict[str, Any] = {
    "size": 24,
    "mode": "RGB",
    "mean": (0.48, 0.45, 0.40),
    "std": (0.26, 0.26, 0.27),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
SIZES = [(24, 24), (1, 1), (7, 300), (300, 7), (64, 64), (25, 24), (101, 77), (13, 17), (640, 427)]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [24, (24, 18)])
def test_pixels_then_affine_is_open_clips_own_transform(
    resize_mode: str, interpolation: str, size: Any
) -> None:
    open_clip = import_open_clip()
    config = {**CONFIG, "size": size, "resize_mode": resize_mode, "interpolation": interpolation}
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**config), is_train=False
    )
    preprocess = Preprocess(config)
    mean, std = (torch.tensor(config[part]).view(3, 1, 1) for part in ("mean", "std"))
    # open_clip's own transform fails on slivers that it shrinks to a width of zero
    sizes = SIZES if resize_mode != "longest" else [s for s in SIZES if max(s) < 20 * min(s)]
    for number, image_size in enumerate(sizes):
        image = draw_image(number, image_size)
        pixels = torch.from_numpy(preprocess.pixels(image).copy()).permute(2, 0, 1)
        assert torch.equal((pixels.float() / 255 - mean) / std, transform(image)), image_size


def test_the_encoder_sees_what_open_clip_would_show_it(tiny: Encoder) -> None:
    open_clip = import_open_clip()
    config = open_clip.transform.PreprocessCfg(**tiny.preprocess.config)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    images = [draw_image(seed, (33 + seed, 51)) for seed in range(3)]
    with torch.inference_mode():
        expected = tiny._network.encode_image(torch.stack([transform(image) for image in images]))
    pixels = np.stack([tiny.preprocess.pixels(image) for image in images])
    assert torch.equal(tiny.encode_pixels(torch.from_numpy(pixels)), expected)


def opened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


RED = Image.new("RGB", (8, 8), (200, 30, 20))
ODD: dict[str, tuple[Callable[[], Image.Image], tuple[int, int, int]]] = {
    "RGB": (lambda: opened(RED, "png"), (200, 30, 20)),
    "grey": (lambda: opened(Image.new("L", (8, 8), 77), "png"), (77, 77, 77)),
    "one bit": (lambda: opened(Image.new("1", (8, 8), 1), "png"), (255, 255, 255)),
    "CMYK": (lambda: opened(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "tiff"), (255, 0, 0)),
    "CMYK JPEG": (lambda: opened(Image.new("CMYK", (8, 8)), "jpeg"), (255, 255, 255)),
    "palette": (lambda: opened(RED.quantize(4), "png"), (200, 30, 20)),
    "palette with a clear colour": (
        lambda: opened(RED.quantize(4), "png", transparency=0),
        (255, 255, 255),
    ),
    "clear": (lambda: opened(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "png"), (255, 255, 255)),
    "half clear": (lambda: opened(Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "png"), (204,) * 3),
    "grey and alpha": (lambda: opened(Image.new("LA", (8, 8), (7, 0)), "png"), (255, 255, 255)),
    "16 bits": (
        lambda: opened(Image.fromarray(np.full((8, 8), 0x4040, np.uint16)), "png"),
        (64, 64, 64),
    ),
    "32 bits": (lambda: opened(Image.new("I", (8, 8), 65535), "tiff"), (255, 255, 255)),
    "float": (lambda: opened(Image.new("F", (8, 8), 129.6), "tiff"), (130, 130, 130)),
    "YCbCr": (lambda: Image.new("RGB", (8, 8), "white").convert("YCbCr"), (255, 255, 255)),
    "animated": (
        lambda: opened(RED, "gif", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        (200, 30, 20),
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_every_mode_becomes_rgb(kind: str) -> None:
    make, colour = ODD[kind]
    image = upright_rgb(make())
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert image.getpixel((3, 4)) == colour


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_exif_orientation_is_applied(orientation: int, mode: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    image = opened(draw_image(1, (9, 5)).convert(mode), "png", exif=exif)
    expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(upright_rgb(image)), np.asarray(expected))


def test_broken_exif_does_not_lose_the_image() -> None:
    buffer = io.BytesIO()
    RED.save(buffer, "jpeg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    with quiet_pillow():
        assert upright_rgb(Image.open(buffer)).size == (8, 8)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cafe.encoders.preprocess._MOST_PIXELS", 63)
    image = opened(RED, "png")
    monkeypatch.setattr(image, "load", None)
    with pytest.raises(Image.DecompressionBombError, match="8 x 8 pixels are more than 63"):
        upright_rgb(image)


@pytest.mark.parametrize("keep", [60, 200])
def test_a_truncated_image_is_an_error(keep: int) -> None:
    buffer = io.BytesIO()
    draw_image(0, (90, 90)).save(buffer, "jpeg")
    with pytest.raises(OSError, match=r"truncated|cannot identify|broken"):
        upright_rgb(Image.open(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) - keep])))


def test_names_in_any_script(tmp_path: Path) -> None:
    for name in ("日本語.png", "مرحبا.png", "naïve café 🐈.png"):
        RED.save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert upright_rgb(image).size == (8, 8)


def test_augmented_views_depend_on_the_seed_and_the_id_alone() -> None:
    image = draw_image(5, (60, 40))

    def crops(seed: int, name: str) -> list[bytes]:
        return [crop.tobytes() for crop in Augmentation(4, seed).crops(image, name)]

    assert len(crops(0, "a")) == 3
    assert crops(0, "a") == crops(0, "a")
    assert len({*crops(0, "a"), *crops(1, "a"), *crops(0, "b")}) == 9


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (60, 40)])
def test_views_have_the_encoders_size(size: tuple[int, int]) -> None:
    preprocess = Preprocess({**CONFIG, "size": (24, 18)})
    image = draw_image(0, size)
    for crop in Augmentation(8).crops(image, "x"):
        assert 1 <= crop.width <= size[0]
        assert 1 <= crop.height <= size[1]
        assert preprocess.crop_pixels(crop).shape == (24, 18, 3)


def test_no_augmentation_is_no_part_of_the_key() -> None:
    assert Augmentation(1, seed=3).key() is None
    assert Augmentation(2, seed=3).key() != Augmentation(2, seed=4).key()
