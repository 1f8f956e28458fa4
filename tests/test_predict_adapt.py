"""`cafe predict --adapt`: what is said, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from digits_run import Answer, call, digits_run

import cafe
from cafe.inference.adaptation import open_adaptation


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = digits_run(tmp_path_factory)
    monkeypatch.chdir(folder)
    return folder


def test_images_one_by_one_are_as_together(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def predict(*words: str | Path) -> Answer:
        return call(monkeypatch, capsys, "predict", "runs/mine", *words, "--json")

    images = sorted((work / "digits").rglob("*.png"))
    for name in ("tda", "oga"):
        state = tmp_path / f"{name}.state"
        whole = predict(*images, "--adapt", name)
        assert "transductive" in whole.err
        rows = json.loads(whole.out)
        assert [row["adapted"]["images_seen"] for row in rows] == list(range(1, len(images) + 1))
        assert rows[1]["learning"] == "transductive: sees 2 images of a stream without their labels"
        parts = list[Any]()
        for part in (images[:3], images[3:]):
            answer = predict(*part, "--adapt", name, "--state", state, "--batch-size", "2")
            parts += json.loads(answer.out)
        assert [row["adapted"] for row in parts] == [row["adapted"] for row in rows]
        for one, other in zip(parts, rows, strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert "3 images before" in answer.err
    mixed = predict(images[0], "--adapt", "oga", "--state", tmp_path / "tda.state")
    assert mixed.code == 2
    assert "it is the state of tda, not of oga; name another file" in mixed.err
    other = call(
        monkeypatch, capsys, "predict", "runs/mine", images[0], "--method", "clip-adapter",
        "--adapt", "tda", "--state", tmp_path / "tda.state",
    )  # fmt: skip
    assert other.code == 2
    assert "it is the state of another head" in other.err


def test_incpl_looks_at_labelled_images(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(
        monkeypatch, capsys, "predict", "runs/mine", "digits", "--adapt", "incpl", "--json"
    )
    rows = json.loads(answer.out)
    assert all(row["adapted"] == {"method": "incpl", "context_images": 16} for row in rows)
    plain = json.loads(call(monkeypatch, capsys, "predict", "runs/mine", "digits", "--json").out)
    assert "adapted" not in plain[0]
    assert [row["probability"] for row in plain] != [row["probability"] for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--state", "s"], "--state keeps what --adapt tda or oga learns"),
        (["--adapt", "incpl", "--state", "s"], "incpl keeps no state"),
        (["--adapt", "tda", "--state", "no/such/s"], "is in no folder; make 'no/such' first"),
        (["--adapt", "tda", "--state", "photos/three.png"], "it is no state, or damaged"),
        (["--adapt", "tda", "--boxes", "x.json"], "--adapt is for images, not for --boxes"),
        (["--pool", "self", "--boxes", "x.json"], "--pool is for images, not for --boxes"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    before = (work / "photos/three.png").read_bytes()
    answer = call(monkeypatch, capsys, "predict", "runs/mine", "photos/three.png", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert (work / "photos/three.png").read_bytes() == before


def test_a_stream_that_is_broken_off_is_kept(work: Path, tmp_path: Path) -> None:
    predictor = cafe.Predictor.load("runs/mine", device="cpu")
    state = tmp_path / "state"
    predictor.adaptation = open_adaptation(predictor.saved, "tda", state=state)
    predictions = predictor.predict("digits", batch_size=2)
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]
    again = open_adaptation(predictor.saved, "tda", state=state)
    assert again.stream.seen == 2  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_probabilities_are_adapted_too(work: Path) -> None:
    predictor = cafe.Predictor.load("runs/mine", device="cpu")
    plain = predictor.predict_proba("digits")
    predictor.adaptation = open_adaptation(predictor.saved, "tda")
    adapted = predictor.predict_proba("digits")
    assert adapted.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert abs(adapted - plain).max() > 1e-4
