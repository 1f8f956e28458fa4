"""Which head of a run answers: the best on held-out images, whatever the test split says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from digits_run import Answer, call, digits_run

import cafe
from cafe.errors import InputError
from cafe.features.splits import draw_folds, draw_shots
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.results.head_selection import HeadSelector, best_result, choose_result
from cafe.results.metrics import summarize
from cafe.results.record import read_record
from cafe.results.result import NOT_CALIBRATED, Calibration, Result
from cafe.results.runs import choose_head

Run = Callable[..., Answer]


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = digits_run(tmp_path_factory)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: call(monkeypatch, capsys, *words)


def result(method: str, test: float, held_out: float | None, nll: float | None = None) -> Result:
    """A result with its accuracy on the test split and on held-out images."""
    kept = NOT_CALIBRATED
    if held_out is not None:
        kept = Calibration(1.0, "out-of-fold", 40, held_out, nll)
    return Result(method, 4, {}, summarize([test]), 1.0, calibration=kept)


def chosen(*results: Result) -> str:
    return best_result(results)[0].method


def test_the_best_on_held_out_images_answers_and_no_test_score_counts() -> None:
    rows = [result("zero-shot", 90, 50.0), result("gda", 30, 80.0), result("knn", 95, 70.0)]
    assert chosen(*rows) == "gda"
    swapped = [replace(row, accuracy=summarize([100 - row.accuracy.mean])) for row in rows]
    assert chosen(*swapped) == "gda"
    assert best_result(rows)[1] == "best of 3 by cross-validation inside the shots"


def test_of_equals_the_likeliest_and_then_the_first() -> None:
    assert chosen(result("gda", 1, 80.0, 0.5), result("knn", 1, 80.0, 0.4)) == "knn"
    assert chosen(result("gda", 1, 80.0, 0.4), result("knn", 1, 80.0, 0.4)) == "gda"


def test_without_held_out_images_it_is_auto_or_the_last_method() -> None:
    rows = [result(n, 1, None) for n in ("zero-shot", "nearest-class", "gda", "auto", "knn")]
    assert chosen(*rows) == "auto"
    assert chosen(*rows[:3]) == "gda"
    assert chosen(*rows[:2]) == "nearest-class"
    assert best_result(rows)[1] == "the run kept nothing to choose by"


def test_what_is_kept_is_cross_validated_inside_the_shots(work: Path) -> None:
    record = cafe.fit("digits/nano.glyphs", method="gda", shots=4, seeds=2, runs=None)
    task = load_task(cafe.FeatureCache.open("digits/nano.glyphs"))
    train = task.splits["train"]
    shots = train[draw_shots(train.y, 4, 0)]
    gda, right = make_method("gda", Context(), {}), 0
    for kept, out in draw_folds(shots.y, 0):
        head = gda.fit(TrainingSet(shots[kept], task.text))
        right += int((head.logits(shots.x[out]).argmax(dim=1) == shots.y[out]).sum())
    kept_by = record.results[-1].calibration
    assert kept_by is not None
    assert kept_by.accuracy == pytest.approx(100 * right / 40)
    assert kept_by.images == 40
    assert kept_by.nll is not None
    assert record.json["results"][-1]["calibration"]["accuracy"] == kept_by.accuracy


def test_a_comparison_is_calibrated_and_chooses_in_the_same_way(work: Path, tmp_path: Path) -> None:
    names = ["zero-shot", "nearest-class", "gda"]
    comparison = cafe.compare(
        "digits/nano.glyphs", methods=names, shots=[1, 4], seeds=1, runs=tmp_path
    )
    for row in comparison.record.results:
        assert row.calibration is not None
        assert (row.calibration.temperature is None) == (row.shots == 1)
    rows = [row for row in comparison.record.results if row.shots == 4]
    best = best_result(rows)[0]
    file, words, had_choice = choose_head(tmp_path)
    assert file.name == f"{best.method}.4shot.seed0.safetensors"
    score = best.accuracy.per_seed[0]
    assert words == (
        f"{best.method}, 4 shots, seed 0 (best of 3 by cross-validation inside the shots): "
        f"{score:.1f} % on the run's test split"
    )
    assert had_choice
    assert cafe.load_head(file).temperature is not None
    named = choose_head(tmp_path, HeadSelector("gda", 1))
    assert named.words.startswith("gda, 1 shot, seed 0: ")
    assert not named.had_choice


def test_an_average_has_no_head(work: Path, tmp_path: Path) -> None:
    caches = ["digits/nano.glyphs"] * 2
    made = cafe.compare(caches, methods=["zero-shot", "gda"], shots=1, seeds=1, runs=tmp_path)
    assert made.folder is not None
    with pytest.raises(InputError, match="is an average over caches and has no head; name the run"):
        choose_head(made.folder)


def test_commands_say_what_they_took(run: Run, work: Path, tmp_path: Path) -> None:
    words = choose_head("runs/mine").words
    assert "on the run's test split" in words
    line = f"{words}; --method picks another"
    assert line in run("predict", "runs", "photos").err.splitlines()
    assert line in run("export", "runs", "-o", tmp_path / "a.safetensors").err.splitlines()
    page = run("report", "runs", "-o", tmp_path / "a.html")  # looks at the best of the test split
    assert "digits: clip-adapter, 4 shots, seed 0: " in page.err
    text = (tmp_path / "a.html").read_text()
    assert f"<code>cafe predict</code> answers with {words.partition(',')[0]} (" in text
    named = run("predict", "runs", "photos", "--method", "nearest-class", "--shots", "1")
    assert "nearest-class, 1 shot, seed 0: " in named.err
    assert "picks another" not in named.err
    assert "not calibrated: one shot a class leaves no image to hold out" in named.err
    looked = run("report", "runs", "-o", tmp_path / "b.html", "--method", "zero-shot")
    assert "digits: zero-shot, 4 shots, seed 0: " in looked.err
    unknown = run("report", "runs", "-o", tmp_path / "c.html", "--method", "gda")
    assert unknown.code == 2
    assert "method of this run" in unknown.err


def test_older_records_are_read_and_chosen_from(work: Path) -> None:
    record = read_record(Path("runs/mine"))
    older = [
        replace(row, calibration=replace(row.calibration, accuracy=None, nll=None))
        for row in record.results
        if row.calibration is not None
    ]
    found = choose_result(replace(record, results=tuple(older)), HeadSelector())
    assert (found.result.method, found.result.shots) == ("clip-adapter", 4)
