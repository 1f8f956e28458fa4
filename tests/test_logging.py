"""What the library says where nobody gives it a `note=`, and its version."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from making import draw_image

import cafe
from cafe.extract.image_sources import list_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("ash", "birch"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            draw_image(number).save(tmp_path / f"photos/{name}/{number}.png")
    (tmp_path / "photos/ash/notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_notes_are_logged_or_told(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    extractor, told = cafe.Extractor("nano", device="cpu"), []
    with caplog.at_level(logging.INFO, "cafe"):
        extractor.extract(photos, cache=photos.parent / "told", note=told.append)
        assert caplog.records == []
        extractor.extract(photos, cache=photos.parent / "logged")
    assert [record.getMessage() for record in caplog.records] == told != []
    assert {(record.name, record.levelname) for record in caplog.records} == {("cafe", "INFO")}


def test_folders_are_listed_with_a_note(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cafe"):
        assert len(list_images(photos)) == 8
    assert "1: .txt" in caplog.text


def test_nothing_is_shown_unasked_but_warnings() -> None:
    code = "from cafe.progress import log; import cafe; log.info('quiet'); log.warning('said')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "said\n")


def test_version() -> None:
    assert cafe.__version__ == version("cafe-clip")
