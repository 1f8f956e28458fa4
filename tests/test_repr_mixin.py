"""What records, heads and predictors show of themselves, at a prompt and in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_run import digits_run

import cafe
from cafe.results.metrics import summarize
from cafe.results.record import read_record
from cafe.results.result import Result, accuracy_rows
from cafe.store.repr_mixin import MOST_ROWS, ReprMixin


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory) / "runs/mine"


def test_a_record(run: Path) -> None:
    record = read_record(run)
    title, head, *rows = repr(record).splitlines()
    assert title == f"Record of digits with nano.glyphs, saved in '{run}'"
    assert head.split() == ["accuracy", "%", "1", "shot", "4", "shots"]
    assert [row.split()[:2] for row in rows] == [
        [f"{name},", "inductive"] for name in ("zero-shot", "nearest-class", "clip-adapter")
    ]
    assert f"{record.results[-1].accuracy.mean:.2f} ± " in rows[-1]
    assert "<td>clip-adapter, inductive</td>" in record._repr_html_()


def test_a_result_shows_neither_heads_nor_pages(run: Path) -> None:
    assert len(repr(read_record(run).results[0])) < 1000


def test_heads_and_predictors(run: Path) -> None:
    saved = cafe.load_head(run / "clip-adapter.4shot.seed0.safetensors")
    lines = repr(saved).splitlines()
    assert lines[0] == "SavedHead of clip-adapter, 4 shots, seed 0"
    assert [line.split()[0] for line in lines[1:]] == [
        "dataset",
        "encoder",
        "classes",
        "accuracy",
        "learning",
        "temperature",
    ]
    assert lines[3].split(maxsplit=1)[1] == "10: zero, one, two, ..."
    predictor = cafe.Predictor.load(run, method="clip-adapter", device="cpu")
    assert repr(predictor).splitlines()[0] == "Predictor of clip-adapter, 4 shots, seed 0"
    assert "<td>cpu</td>" in predictor._repr_html_()


def test_results_that_are_not_there_are_blank() -> None:
    one, other = (Result(m, s, {}, summarize([50.0]), 1.0) for m, s in (("a", 1), ("b", "all")))
    assert accuracy_rows([one, other]) == [
        ["accuracy %", "1 shot", "all shots"],
        ["a, inductive", "50.00", ""],
        ["b, inductive", "", "50.00"],
    ]


def test_long_tables_are_cut() -> None:
    class Long(ReprMixin):
        def _title(self) -> str:
            return "Long"

        def _rows(self) -> list[list[str]]:
            return [[str(row), "x" * 100] for row in range(100)]

    lines = repr(Long()).splitlines()
    assert len(lines) == MOST_ROWS + 2
    assert lines[-1].strip() == "... and 70 more"
    assert max(map(len, lines)) < 90
