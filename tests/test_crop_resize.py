"""A sliver is resized where it is kept alone, to the same pixels and in little memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import draw_image
from PIL import Image

from cafe.compat import import_open_clip
from cafe.encoders import preprocess as module
from cafe.encoders.crop_resize import Side, crop_resize
from cafe.encoders.preprocess import Augmentation, Preprocess

CONFIG: dict[str, Any] = {
    "size": 24,
    "mode": "RGB",
    "mean": (0.48, 0.45, 0.40),
    "std": (0.26, 0.26, 0.27),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(20, 900),
    st.booleans(),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_the_pixels_are_those_of_pillow(short: int, long: int, tall: bool, kernel: str) -> None:
    width, height = (short, long) if tall else (long, short)
    size = 24
    wide, high = (size, size * long // short) if tall else (size * long // short, size)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    image = noise(width, height)
    resized = image.resize((wide, high), Image.Resampling[kernel.upper()])
    expected = np.asarray(resized)[top : top + size, left : left + size]
    sides = Side(width, wide, left, size), Side(height, high, top, size)
    assert np.array_equal(crop_resize(image, *sides, kernel), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [24, (24, 18), (18, 24)])
@pytest.mark.parametrize("image_size", [(1, 2000), (2000, 1), (3, 1999), (1501, 2), (7, 5000)])
def test_a_sliver_is_what_open_clip_makes_of_it(
    image_size: tuple[int, int], size: Any, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**CONFIG, "size": size, "interpolation": interpolation}
    open_clip = import_open_clip()
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**{**config, "mean": (0,) * 3, "std": (1,) * 3}),
        is_train=False,
    )
    preprocess, image = Preprocess(config), noise(*image_size)
    whole = preprocess.pixels(image)
    monkeypatch.setattr(module, "_MOST_RESIZED", 0)
    assert np.array_equal(preprocess.pixels(image), whole)
    expected = np.rint(transform(image).numpy() * 255).transpose(1, 2, 0)
    assert np.array_equal(whole, expected)


@pytest.mark.parametrize("image_size", [(1, 15_000), (65_000, 1), (1, 1 << 20), (600, 220_000)])
def test_a_sliver_takes_little_memory(image_size: tuple[int, int]) -> None:
    preprocess = Preprocess({**CONFIG, "size": 224})
    image = Image.new("RGB", image_size, (9, 99, 199))
    tracemalloc.start()
    try:
        pixels = preprocess.pixels(image)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (9, 99, 199)).all()
    for crop in Augmentation(3).crops(image, "x"):
        assert preprocess.crop_pixels(crop).shape == (224, 224, 3)


def test_usual_images_go_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "crop_resize", None)
    preprocess = Preprocess({**CONFIG, "size": 224})
    for size in ((640, 427), (4000, 30), (30, 9000), (12_000, 9_000)):
        assert preprocess.pixels(draw_image(1, size)).shape == (224, 224, 3)
