"""The extractor as a library call: what it tells of an extraction, and where it encodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import cafe
from cafe.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of images in folders; one image cannot be read."""
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (40, 30), colour).save(tmp_path / f"photos/{name}/{index}.png")
    (tmp_path / "photos/red/broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_it_tells_what_the_extraction_did(photos: Path, tmp_path: Path) -> None:
    extractor = cafe.Extractor("nano", device="cpu")
    cache = extractor.extract(photos, cache=tmp_path / "cache")
    first = extractor.extraction_
    assert (first.path, first.images, first.skipped, first.was_there) == (cache.path, 12, 1, False)
    extractor.extract(photos, cache=tmp_path / "cache")
    again = extractor.extraction_
    assert (again.path, again.images, again.was_there) == (cache.path, 0, True)


def test_it_notes_how_large_spatial_maps_become(photos: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    extractor = cafe.Extractor("nano", device="cpu")
    extractor.extract(photos, cache=tmp_path / "plain", note=notes.append)
    assert notes == []
    extractor.extract(photos, cache=tmp_path / "maps", spatial=2, note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("13 maps of 1 x 1 tokens take up to 0 MB")


def test_it_notes_what_the_dataset_left_out_and_the_cache_keeps_it(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "green").mkdir()
    (photos / "notes.txt").write_text("a list")
    expected = [
        "left out: files of no image format that cafe reads (1: .txt)",
        "left out: folders without images (1: green)",
    ]
    extractor = cafe.Extractor("nano", device="cpu")
    for _ in range(2):  # also where the cache is there
        notes: list[str] = []
        cache = extractor.extract(photos, cache=tmp_path / "cache", note=notes.append)
        assert notes == expected
    assert list(cache.header.notes) == expected


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="unknown engine 'spark'; use local or ray"):
        cafe.Extractor("nano", engine="spark")  # type: ignore[arg-type]
