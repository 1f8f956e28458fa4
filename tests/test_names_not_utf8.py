"""Names of files that are not UTF-8 are read like others, and shown so that they come back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import draw_image
from safetensors.torch import save

import cafe
from cafe.encoders.checkpoint import read_tensors
from cafe.errors import escape_bytes, unescape_bytes
from cafe.extract.image_sources import list_images
from cafe.extract.importers.arrays import read_array
from cafe.inference.neighbours import find_cache
from cafe.report.page import write_report
from cafe.results.saved_head import load_head
from cafe.store import FeatureCache

BAD = os.fsdecode(b"caf\xe9.png")
ROOT = Path(__file__).parents[1]


def unescape(text: str) -> bytes:
    """As `docs/own-data.md` says."""
    (code,) = re.findall(
        r"```python\n(import re.*?)```", (ROOT / "docs/own-data.md").read_text(), re.S
    )
    names: dict[str, object] = {"name": text}
    exec(code, names)  # noqa: S102 - the documentation's
    raw = names["raw"]
    assert isinstance(raw, bytes)
    return raw


@given(st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw))
def test_every_name_can_be_had_back(raw: bytes) -> None:
    text = escape_bytes(raw.decode("utf-8", "surrogateescape"))
    text.encode()  # it is UTF-8
    assert unescape(text) == raw
    assert unescape_bytes(text) == raw.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        ("café.png".encode(), "café.png"),
        (rb"a\b.png", r"a\b.png"),
        (rb"caf\xe9.png", r"caf\\xe9.png"),
        (b"a\\\xff\\n", r"a\\\xff\\n"),
        (b"\xff\xfe", r"\xff\xfe"),
    ],
)
def test_the_escape(raw: bytes, text: str) -> None:
    assert escape_bytes(raw.decode("utf-8", "surrogateescape")) == text
    assert unescape(text) == raw


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six images each, one of which has such a name."""
    for number, name in enumerate("ab"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(6):
            draw_image(9 * number + index).save(tmp_path / f"photos/{name}/{index}.png")
    try:
        draw_image(99).save(tmp_path / "photos" / "a" / BAD)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "photos" / "b" / BAD).write_bytes(b"no image")
    return tmp_path / "photos"


def test_one_such_file_costs_nothing(photos: Path, tmp_path: Path) -> None:
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    cache = extractor.extract(photos, cache=tmp_path / "cache")
    assert (extractor.extraction_.images, extractor.extraction_.skipped) == (13, 1)
    ids = {name for split in cache.counts for name in cache.ids(split)}
    assert f"a/{BAD}" in ids
    assert [row[1] for row in cache.header.skipped] == [f"b/{BAD}"]
    extractor.extract(photos, cache=tmp_path / "cache")
    assert extractor.extraction_.was_there
    assert FeatureCache.open(cache.path).ids("train") == cache.ids("train")


def test_predictions_of_such_files(photos: Path, tmp_path: Path) -> None:
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    cache = extractor.extract(photos, cache=tmp_path / "cache")
    run = cafe.fit(cache, shots=1, seeds=[0], runs=tmp_path / "runs").folder
    assert run is not None
    assert len(list_images(photos)) == 14
    predictor = cafe.Predictor.load(run, device="cpu")
    images = [photos / "a" / BAD, photos / "b" / BAD, photos / "a" / "0.png"]
    shown = [prediction.json() for prediction in predictor.predict(images)]
    assert [Path(row["image"]).name for row in shown] == [r"caf\xe9.png", r"caf\xe9.png", "0.png"]
    assert [row["label"] is None for row in shown] == [False, True, False]
    json.dumps(shown, ensure_ascii=False).encode()


def test_a_manifest_can_name_such_a_file(photos: Path, tmp_path: Path) -> None:
    from cafe.datasets import load_dataset

    rows = [{"path": f"a/{BAD}", "label": "a"}, {"path": "b/0.png", "label": "b"}]
    (photos / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_dataset(photos / "m.jsonl")
    assert {i.id for items in dataset.splits.values() for i in items} == {f"a/{BAD}", "b/0.png"}


def test_folders_of_such_names(photos: Path, tmp_path: Path) -> None:
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    folder = tmp_path / os.fsdecode(b"f\xe9")
    cache = extractor.extract(photos, cache=folder)
    run = cafe.fit(cache, shots=2, seeds=[0], runs=folder).folder
    assert run is not None
    assert json.loads((run / "record.json").read_bytes())["cache"] == escape_bytes(str(cache.path))
    page = write_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The cache" not in page  # is not at hand
    (head, *_) = run.glob("*.safetensors")
    assert find_cache(load_head(head), head).path == cache.path


def test_tensors_in_folders_of_such_names(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    rows = torch.rand(3, 4)
    torch.save(rows, folder / "rows.pt")
    assert np.array_equal(read_array(folder / "rows.pt"), rows)
    torch.save({"rows": rows}, folder / "state.pt")
    (folder / "state.safetensors").write_bytes(save({"rows": rows}))
    for name in ("state.pt", "state.safetensors"):
        assert torch.equal(read_tensors(folder / name)["rows"], rows)
