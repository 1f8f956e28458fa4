"""A run on the digits that come with cafe, for tests of what is done with a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import cafe
from cafe.datasets import load_dataset
from cafe_cli.main import main

_made: list[Path] = []


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def digits_run(factory: pytest.TempPathFactory) -> Path:
    """A working folder with `cache/`, `runs/mine/`, `digits/` and `photos/three.png`; made once."""
    if not _made:
        work, before = factory.mktemp("digits"), Path.cwd()
        os.chdir(work)  # a run names its cache as it was named
        try:
            _make()
        finally:
            os.chdir(before)
        _made.append(work)
    return _made[0]


def _make() -> None:
    cache = cafe.Extractor("nano", device="cpu", precision="fp32").extract("digits", cache="cache")
    record = cafe.fit(cache.path, shots=[1, 4], seeds=2, epochs=20, device="cpu")
    assert record.folder is not None
    record.folder.rename("runs/mine")
    digits = load_dataset("digits")
    items = digits.splits["test"]
    for item in items[::125]:
        path = Path("digits", digits.class_names[item.label], f"{item.id}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        digits.open_image(item).save(path)
    saved = cafe.load_head("runs/mine/clip-adapter.4shot.seed0.safetensors")
    test = cafe.load_task(cache).splits["test"]
    best = saved.probabilities(test.x)[:, 3].argmax()  # the clearest three
    Path("photos").mkdir()
    digits.open_image(items[int(best)]).save("photos/three.png")


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path
) -> Answer:
    """Run `cafe` in the working directory."""
    monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Answer(code, captured.out, captured.err)
