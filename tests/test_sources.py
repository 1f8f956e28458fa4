"""Images as people have them in Python: every kind gives the features of the same picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from making import draw_image
from PIL import Image

import cafe
from cafe.errors import CafeError, ImageError, InputError

PICTURES = [draw_image(seed) for seed in range(3)]
ARRAYS = [np.asarray(picture) for picture in PICTURES]  # (36, 40, 3) uint8
BATCH = np.stack(ARRAYS)


@pytest.fixture(scope="module")
def extractor() -> cafe.Extractor:
    return cafe.Extractor("nano", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(PICTURES):
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def expected(extractor: cafe.Extractor, folder: Path) -> Any:
    return extractor.encode(folder)


KINDS = {
    "pictures": PICTURES,
    "generator": (picture for picture in PICTURES),
    "arrays": ARRAYS,
    "batch": BATCH,
    "read-only batch": np.broadcast_to(BATCH, BATCH.shape),
    "objects": np.array([*PICTURES, None], object)[:3],
    "floats": BATCH / 255,
    "half floats": (BATCH / 255).astype(np.float32),
    "integers": BATCH.astype(np.int64),
    "16 bits": BATCH.astype(np.uint16) * 257,
    "opaque": np.concatenate([BATCH, np.full((3, 36, 40, 1), 255, np.uint8)], axis=3),
    "tensors": [torch.from_numpy(array.copy()).movedim(2, 0) for array in ARRAYS],
    "tensor batch": torch.from_numpy(BATCH).movedim(3, 1),
    "tensor floats": torch.from_numpy(BATCH).movedim(3, 1) / 255,
    "tensor with gradient": (torch.from_numpy(BATCH).movedim(3, 1) / 255).requires_grad_(),
    "series": pd.Series(PICTURES),
    "column": pd.DataFrame({"image": PICTURES}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_features(
    extractor: cafe.Extractor, expected: Any, kind: str
) -> None:
    found = extractor.encode(KINDS[kind])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_paths_of_every_kind(extractor: cafe.Extractor, expected: Any, folder: Path) -> None:
    files = sorted(folder.iterdir())
    table = pd.DataFrame({"path": list(map(str, files))})
    for paths in (files, list(map(str, files)), np.array(files, str), table["path"], table):
        np.testing.assert_array_equal(extractor.encode(paths), expected)
    np.testing.assert_allclose(extractor.encode(files[0]), expected[:1], atol=1e-5)
    found = extractor.encode([folder, PICTURES[0]])
    np.testing.assert_allclose(found, expected[[0, 1, 2, 0]], atol=1e-5)


def test_they_are_the_features_of_a_cache(extractor: cafe.Extractor, tmp_path: Path) -> None:
    cache = extractor.extract("digits", cache=tmp_path)
    digits = cafe.load_dataset("digits")
    images = [digits.open_image(item) for item in digits.splits["val"][:40]]
    stored = cache.read("val", range(40)).features
    np.testing.assert_allclose(extractor.encode(images), stored, atol=2e-3)


@pytest.mark.parametrize("grey", [ARRAYS[0][..., 0], ARRAYS[0][..., :1], ARRAYS[0][..., 0] > 90])
def test_grey(extractor: cafe.Extractor, grey: Any) -> None:
    channels = (grey if grey.ndim == 2 else grey[..., 0])[..., None].repeat(3, axis=2)
    one, other = extractor.encode([grey, channels])
    np.testing.assert_allclose(one, other, atol=1e-5)
    if grey.dtype != bool:
        tensor = torch.from_numpy(channels[..., 0].copy())
        np.testing.assert_allclose(extractor.encode(tensor)[0], one, atol=1e-5)
        np.testing.assert_allclose(extractor.encode(tensor[None])[0], one, atol=1e-5)


def test_dark_floats_are_dark(extractor: cafe.Extractor) -> None:
    dark = ARRAYS[0] // 20  # as 8 bits up to 12, as floats up to 0.05
    one, other = extractor.encode([dark, dark / 255])
    np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(ImageError, match="in no range that is known"):
        extractor.encode([dark.astype(np.uint16)])


def test_what_is_clear_is_white(extractor: cafe.Extractor) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    one, other = extractor.encode([clear, np.full((8, 8, 3), 255, np.uint8)])
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((3, 224, 224), np.uint8), r"shape \(3, 224, 224\) is no image: an array is"),
        (torch.zeros(224, 224, 3), r"shape \(224, 224, 3\) is no image: .* a tensor"),
        (np.zeros(7), "is no image"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (np.full((4, 4, 3), 1j), "is no image"),
        (np.full((4, 4, 3), np.nan), "in no range that is known"),
        (torch.randn(3, 8, 8), "in no range that is known"),
        ("gone.png", "there is no such file"),
        (Image.new("RGB", (0, 4)), "cannot be read"),
    ],
)
def test_what_is_no_image(
    extractor: cafe.Extractor, image: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImageError, match=rf"'(image 1|gone.png)' cannot be read \(.*{text}|{text}"):
        extractor.encode([PICTURES[0], image])
    with caplog.at_level(logging.WARNING, "cafe"):
        found = extractor.encode([image, PICTURES[0]], on_error="skip")
    assert np.isnan(found).all(axis=1).tolist() == [True, False]
    assert [record.name for record in caplog.records] == ["cafe"]
    assert "its row is NaN" in caplog.text


@pytest.mark.parametrize("images", [5, [5], [None], [PICTURES]])
def test_other_types_are_refused(extractor: cafe.Extractor, images: Any) -> None:
    with pytest.raises(InputError, match="is of type"):
        extractor.encode(images)


def test_nothing_and_wrong_words(extractor: cafe.Extractor) -> None:
    for none in ([], np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(CafeError, match="no image is there"):
            extractor.encode(none)
    with pytest.raises(InputError, match="'fail' or 'skip'"):
        extractor.encode(PICTURES, on_error="nan")  # type: ignore[arg-type]


def test_batches_change_nothing_and_progress_is_told(expected: Any) -> None:
    small = cafe.Extractor("nano", device="cpu", precision="fp32", batch_size=2, workers=1)
    seen: list[tuple[str, int, int]] = []
    found = small.encode(PICTURES, progress=lambda *step: seen.append(step))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert seen == [("images", 2, 3), ("images", 3, 3)]
