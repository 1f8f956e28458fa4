"""The split that cafe made itself is in every result, not only in the cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from making import draw_image

import cafe
from cafe.report.page import write_report
from cafe.results.record import read_record
from cafe.store import FeatureCache
from cafe_cli.main import main

OURS = "cafe's split: 50/20/30 % train/val/test in each class, by a hash of the path"
OFFICIAL = "the folders test, train"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[FeatureCache]:
    """A folder of classes, and one with splits."""
    root = tmp_path_factory.mktemp("told")
    for index in range(12):
        for name, part in (("mine", ""), ("theirs", "train/" if index % 2 else "test/")):
            for number, label in enumerate("abcd"):
                (root / name / part / label).mkdir(parents=True, exist_ok=True)
                draw_image(50 * number + index).save(root / name / part / label / f"{index}.png")
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    return [extractor.extract(root / name, cache=root / "cache") for name in ("mine", "theirs")]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        sys.exit(main())
    assert not stop.value.code


COMMANDS = {
    "fit": ["--epochs", "1"],
    "compare": ["--methods", "zero-shot,nearest-class"],
    "grid": ["--ratio", "0.2,0.6", "--epochs", "1"],
    "compare --base-to-new": ["--methods", "zero-shot,nearest-class"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_it(
    command: str,
    caches: list[FeatureCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for cache, told in zip(caches, (OURS, OFFICIAL), strict=True):
        words = [*command.split(), cache.path, "--shots", "2", "--seeds", "2", "--device", "cpu"]
        words += ["--runs", tmp_path / cache.header.dataset, *COMMANDS[command]]
        run(monkeypatch, *words)
        assert told in " ".join(capsys.readouterr().out.split())
        run(monkeypatch, *words, "--json")
        assert told in json.loads(capsys.readouterr().out)["protocol"]["words"]
        (folder, *_) = (p for p in (tmp_path / cache.header.dataset).iterdir() if p.is_dir())
        record = read_record(folder)
        assert told in record.source
        page = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
        assert told.replace("'", "&#39;").replace(" %", "\u00a0%") in page


def test_an_average_tells_it_of_every_cache(caches: list[FeatureCache], tmp_path: Path) -> None:
    found = cafe.compare(
        caches, methods=["zero-shot", "nearest-class"], shots=2, seeds=[0], runs=tmp_path
    )
    words = found.record.protocol.words
    assert OURS in words
    assert f"Of theirs: {OFFICIAL}." in words


def test_saved_heads_tell_it(caches: list[FeatureCache], tmp_path: Path) -> None:
    record = cafe.fit(caches[0], shots=2, seeds=[0], epochs=1, runs=tmp_path)
    assert record.folder is not None
    (head, *_) = record.folder.glob("*.safetensors")
    assert OURS in cafe.load_head(head).about["protocol"]
