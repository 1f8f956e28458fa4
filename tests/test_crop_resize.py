"""Resizing what is kept alone, or in C++ that was built here: the same pixels as Pillow's."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import draw_image
from PIL import Image

from cafe.compat import import_open_clip
from cafe.encoders import preprocess as module
from cafe.encoders import quick_resize as quick_module
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.crop_resize import Side, crop_resize
from cafe.encoders.preprocess import Preprocess, upright_rgb
from cafe.encoders.quick_resize import WORTH, build_quick_resize, quick_resize
from cafe.errors import ImageError

CONFIG: dict[str, Any] = {
    "size": 24,
    "mode": "RGB",
    "mean": (0.48, 0.45, 0.40),
    "std": (0.26, 0.26, 0.27),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


@pytest.fixture(scope="module")
def built() -> Iterator[None]:
    quick_module._library.cache_clear()
    build_quick_resize(WORTH)
    if quick_module._library() is None:
        pytest.skip("no C++ compiler that builds it, or a Pillow that lends no pixels")
    yield
    quick_module._library.cache_clear()


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_module, "_library", lambda: None)


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


@pytest.mark.usefixtures("built")
@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from([16, 64, 100]),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_what_is_built_gives_the_pixels_of_pillow(
    width: int, height: int, size: int, mode: str, kernel: str
) -> None:
    preprocess = Preprocess({**CONFIG, "size": size, "resize_mode": mode, "interpolation": kernel})
    image = noise(width, height)
    quick = [preprocess.pixels(image), preprocess.crop_pixels(image)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_module, "_library", lambda: None)
        plain = [preprocess.pixels(image), preprocess.crop_pixels(image)]
    assert all(map(np.array_equal, quick, plain))


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_of_an_image_that_was_scaled_while_it_was_decoded(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    noise(403, 309).save(file, "jpeg", exif=exif)
    preprocess = Preprocess({**CONFIG, "size": 32}).decoding("scaled")

    def pixels() -> Any:
        with Image.open(file) as image:
            scale = preprocess.scale(image)
            assert scale == 4
            return preprocess.pixels(upright_rgb(image, scale))

    quick = pixels()
    monkeypatch.setattr(quick_module, "_library", lambda: None)
    assert np.array_equal(quick, pixels())


@pytest.mark.usefixtures("built")
def test_what_it_cannot_do_is_left_to_pillow() -> None:
    side = Side(3, 24, 0, 24)
    assert quick_resize(noise(3, 3), side, side, "bicubic") is None  # narrower than the kernel
    side = Side(50, 24, 0, 24)
    assert quick_resize(noise(50, 50).convert("L"), side, side, "bicubic") is None
    assert quick_resize(noise(50, 50), side, side, "bicubic") is not None
    large = Side(2100, 24, 0, 24)
    assert quick_resize(noise(2100, 2100), large, large, "bicubic") is None  # would be copied
    squash = Preprocess({**CONFIG, "resize_mode": "squash"})
    known = quick_module._windows.cache_info().currsize
    assert squash.pixels(noise(1 << 15, 20)).shape == (24, 24, 3)  # its weights would be kept
    assert quick_module._windows.cache_info().currsize == known
    padded = Preprocess({**CONFIG, "resize_mode": "longest"})
    assert padded.pixels(noise(20, 90)).shape == (24, 24, 3)


@pytest.mark.usefixtures("built")
def test_another_pillow_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: plain(self, size, 0))
    quick_module._library.cache_clear()
    assert quick_module._library() is None
    monkeypatch.undo()
    quick_module._library.cache_clear()
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")  # as before Pillow 11.2
    assert quick_module._library() is None
    monkeypatch.undo()
    quick_module._library.cache_clear()
    assert quick_module._library() is not None


def test_few_images_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_module, "load_library", None)  # a call would fail
    build_quick_resize(WORTH - 1)


@pytest.mark.usefixtures("not_built")
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


@pytest.mark.parametrize("size", [(600_000, 1), (1, 600_000)])
def test_a_side_that_would_take_gigabytes_is_refused_where_it_is_squashed(
    size: tuple[int, int],
) -> None:
    image = Image.new("RGB", size)
    squash = Preprocess({**CONFIG, "resize_mode": "squash"})
    with pytest.raises(ImageError, match="take too much memory to squash into 24 x 24"):
        squash.pixels(image)
    assert Preprocess(CONFIG).pixels(image).shape == (24, 24, 3)
