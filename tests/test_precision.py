"""One precision a study: an option of every function that fits, and in the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cafe
from cafe.devices import resolve_precision
from cafe.engine import trainer
from cafe.errors import InputError
from cafe.results.record import Record, read_record

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK: dict[str, Any] = {"shots": 2, "seeds": 2, "epochs": 2}


def fit(cache: Path, runs: Path, **given: Any) -> Record:
    return cafe.fit(cache, runs=runs, **QUICK, **given)


def compare(cache: Path, runs: Path, **given: Any) -> Record:
    return cafe.compare(cache, methods=["taskres"], runs=runs, **QUICK, **given).record


def base_to_new(cache: Path, runs: Path, **given: Any) -> Record:
    methods = ["clip-adapter"]
    return cafe.compare(
        cache, methods=methods, base_to_new=True, runs=runs, **QUICK, **given
    ).record


def grid(cache: Path, runs: Path, **given: Any) -> Record:
    return cafe.grid(cache, ratio=[0.2, 0.4], bottleneck=4, runs=runs, **QUICK, **given).record


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("study", [fit, compare, base_to_new, grid])
def test_the_whole_study_takes_it_and_the_record_says_it(
    study: Callable[..., Record],
    precision: str,
    noise_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def note(wanted: Any, device: Any) -> Any:
        asked.append(wanted)
        return resolve_precision(wanted, device)

    monkeypatch.setattr(trainer, "resolve_precision", note)
    record = study(noise_cache, tmp_path, precision=precision)
    assert set(asked) == {precision}  # temperatures are fitted in it too
    assert record.json["precision"] == precision
    assert record.results[-1].params["precision"] == precision
    assert record.folder is not None
    assert read_record(record.folder).precision == precision


@pytest.mark.parametrize(("speedup", "precision"), [(4.0, "bf16"), (1.0, "fp32")])
def test_auto_is_recorded_as_what_it_came_to(
    speedup: float,
    precision: str,
    noise_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is known of the machine
    monkeypatch.setattr("cafe.devices.bf16_speedup", lambda: speedup)
    record = cafe.fit(noise_cache, runs=None, device="cpu", **QUICK)
    assert record.json["precision"] == record.results[-1].params["precision"] == precision


@pytest.mark.parametrize("study", [fit, compare, grid])
def test_another_word_is_refused_before_anything_is_fitted(
    study: Callable[..., Record], noise_cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"precision must be auto, fp32 or bf16; got 'fp16'\."):
        study(noise_cache, tmp_path, precision="fp16")
    assert not list(tmp_path.glob("2*"))


def test_the_estimator_takes_it(noise_cache: Path) -> None:
    train = cafe.load_task(cafe.FeatureCache.open(noise_cache)).splits["train"]
    for precision in ("fp32", "bf16"):
        classifier = cafe.AdapterClassifier(epochs=2, precision=precision, calibrate=True)
        assert classifier.fit(train.x, train.y).params_["precision"] == precision
