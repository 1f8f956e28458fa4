"""The extractor as a library call: what it tells of an extraction, and where it encodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

import cafe
from cafe.datasets import load_dataset
from cafe.errors import CacheMismatchError, InputError


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


def test_class_names_become_words_in_prompts_and_that_is_said(tmp_path: Path) -> None:
    for name in ("AnnualCrop", "red_fox", "McDonald", "BMW", "Forest"):
        (tmp_path / "land" / name).mkdir(parents=True)
        for index in range(3):
            colour = (len(name) * 10, index, 0)
            Image.new("RGB", (9, 9), colour).save(tmp_path / f"land/{name}/{index}.png")
    notes: list[str] = []
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    where = {"cache": tmp_path / "cache"}
    header = extractor.extract(tmp_path / "land", note=notes.append, **where).header  # type: ignore[arg-type]
    assert notes[0] == "class names in prompts: AnnualCrop -> annual crop"
    assert header.class_names == ("AnnualCrop", "BMW", "Forest", "McDonald", "red fox")
    words = ["annual crop", "BMW", "Forest", "McDonald", "red fox"]
    assert [row[0] for row in header.sentences] == [f"a photo of a {name}." for name in words]
    file = tmp_path / "names.txt"
    file.write_text("\n".join(["Crops", "cars", "woods", "burgers", "foxes"]))
    named = {"class_names": file, "name": "fields", "note": notes.append, **where}
    other = extractor.extract(tmp_path / "land", **named)  # type: ignore[arg-type]
    assert other.path == tmp_path / "cache/fields/nano.glyphs.h5"
    assert other.header.dataset == "fields"
    assert other.header.class_names == ("Crops", "cars", "woods", "burgers", "foxes")
    assert other.header.sentences[0] == ("a photo of a Crops.",)
    assert any(n.startswith("class names in the order given: AnnualCrop -> Crops") for n in notes)


def test_prompts_of_an_older_cafe_are_refused_in_words(tmp_path: Path) -> None:
    for name in ("AnnualCrop", "SeaLake"):
        (tmp_path / "land" / name).mkdir(parents=True)
        for index in range(4):
            colour = (len(name) * 10, index, 0)
            Image.new("RGB", (9, 9), colour).save(tmp_path / f"land/{name}/{index}.png")
    older = dataclasses.replace(load_dataset(tmp_path / "land"), words=())
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    extractor.extract(older, cache=tmp_path / "cache")
    message = "'a photo of a AnnualCrop.' for 'AnnualCrop', asked for 'a photo of a annual crop.'"
    with pytest.raises(CacheMismatchError, match=message):
        extractor.extract(tmp_path / "land", cache=tmp_path / "cache")
    extractor.extract(tmp_path / "land", cache=tmp_path / "cache", rebuild=True)
    assert extractor.extraction_.images == 0  # the prompts alone
