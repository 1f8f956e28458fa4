"""`cafe compare`: one table on the same shots and seeds, base to new, the published numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import make_header

import cafe
from cafe.errors import CacheNotFoundError, InputError
from cafe.features.task import load_task
from cafe.report import published
from cafe.report.reproduction import reproduce
from cafe.results.averages import average, differences
from cafe.results.metrics import Summary, accuracy, summarize
from cafe.results.result import Result
from cafe.results.run_folders import list_unfinished
from cafe.results.saved_head import load_head
from cafe.store import Block, FeatureCache, write_cache
from cafe.study.base_to_new import with_classes
from cafe.study.compare_one import Comparison
from cafe_cli.main import main
from cafe_cli.result_tables import print_over_shots

METHODS = ["zero-shot", "nearest-class", "clip-adapter"]


def write_separable(path: Path, seed: int = 0, **header: Any) -> FeatureCache:
    """Four classes around their texts, 4 training, 2 validation and 5 test images each."""
    noise = np.random.default_rng(seed)
    centres = noise.standard_normal((4, 8), np.float32)
    text = centres[:, None] + noise.standard_normal((4, 1, 8), np.float32) / 2
    splits = {}
    for split, count in (("train", 4), ("val", 2), ("test", 5)):
        y = np.arange(4, dtype=np.int32).repeat(count)
        x = centres[y] + noise.standard_normal((len(y), 8), np.float32)
        splits[split] = [Block([f"{split}/{row}.png" for row in range(len(y))], y, x)]
    names = tuple(f"class {c}" for c in range(4))
    about = {"dataset": path.parent.name, "class_names": names, "text_features": text, **header}
    about.setdefault("sentences", tuple((f"a {name}.",) for name in names))
    write_cache(path, make_header(**about), splits)
    return FeatureCache.open(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    write_separable(folder / "one" / "tiny.none.h5")
    write_separable(folder / "two" / "tiny.none.h5", seed=1)
    return folder


@pytest.fixture(scope="module")
def comparison(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two caches, three methods, two shot counts."""
    return cafe.compare(
        [home / "one" / "tiny.none.h5", home / "two" / "tiny.none.h5"],
        methods=METHODS,
        shots=[1, 2],
        seeds=2,
        runs=tmp_path_factory.mktemp("runs"),
    )


def test_every_method_at_every_shot_count(comparison: Comparison) -> None:
    assert len(comparison.records) == 2
    for record in comparison.records:
        assert record.folder is not None
        assert json.loads((record.folder / "record.json").read_text()) == record.json
        rows = [(row["method"], row["shots"]) for row in record.json["results"]]
        assert rows == [(method, shots) for shots in (1, 2) for method in METHODS]
        assert record.json["protocol"]["shots"] == [1, 2]


def test_differences_are_paired_by_seed(comparison: Comparison) -> None:
    record = comparison.records[0].json
    scores = {(r["method"], r["shots"]): r["accuracy"]["per_seed"] for r in record["results"]}
    assert len(record["differences"]) == 2 * (len(METHODS) - 1)
    for row in record["differences"]:
        pairs = zip(
            scores[row["method"], row["shots"]], scores["clip-adapter", row["shots"]], strict=True
        )
        assert row["to"] == "clip-adapter"
        assert row["accuracy"]["per_seed"] == [a - b for a, b in pairs]


def test_an_interval_of_differences_is_narrower_than_the_seeds_spread() -> None:
    def result(method: str, scores: list[float]) -> Result:
        return Result(method, 1, {}, summarize(scores), 0.0)

    results = [result("clip-adapter", [50.0, 70.0, 90.0]), result("gda", [51.0, 71.0, 91.0])]
    (gap,) = differences(results)
    assert gap.accuracy.mean == 1.0
    assert gap.accuracy.ci95 == 0.0


def test_the_average_is_seed_by_seed(comparison: Comparison) -> None:
    one, two = (record.json["results"] for record in comparison.records)
    for row, a, b in zip(comparison.json["results"], one, two, strict=True):
        pairs = zip(a["accuracy"]["per_seed"], b["accuracy"]["per_seed"], strict=True)
        assert row["accuracy"]["per_seed"] == [(x + y) / 2 for x, y in pairs]
        assert row["seconds"] == a["seconds"] + b["seconds"]
    assert comparison.json["datasets"] == ["one", "two"]
    assert comparison.folder is not None
    assert (comparison.folder / "record.json").is_file()


def test_shot_counts_that_one_cache_lacks_are_not_averaged(
    comparison: Comparison,
) -> None:
    both, other = comparison.records
    one_shot = replace(other, results=tuple(r for r in other.results if r.shots == 1))
    assert {result.shots for result in both.results} == {1, 2}
    assert [result.shots for result in average([both, one_shot])] == [1] * len(METHODS)


def test_base_to_new_fits_on_the_first_half(home: Path, tmp_path: Path) -> None:
    found = cafe.compare(
        home / "one" / "tiny.none.h5",
        methods=["clip-adapter", "nearest-class"],
        shots=[2],
        seeds=1,
        base_to_new=True,
        runs=tmp_path,
    )
    assert found.json["base_to_new"] == {"base": 2, "new": 2}
    assert "mean of its shots" in found.json["left_out"]["nearest-class"]
    (row,) = found.json["results"]
    base, new, both = (row[n]["mean"] for n in ("accuracy", "new", "harmonic_mean"))
    assert both == pytest.approx(2 * base * new / (base + new))
    assert found.folder is not None
    saved = load_head(found.folder / "clip-adapter.2shot.seed0.safetensors")
    assert saved.about["class_names"] == ["class 0", "class 1"]
    task = load_task(FeatureCache.open(home / "one" / "tiny.none.h5"))
    test = task.splits["test"]
    late = test.y >= 2
    text = type(task.text)(task.text.features[2:], task.text.names[2:], task.text.logit_scale)
    logits = with_classes(saved.head, text).logits(test.x[late])
    assert logits.shape[1] == 2
    assert accuracy(logits, test.y[late] - 2) == pytest.approx(new)


def test_no_method_that_can_take_new_classes(home: Path) -> None:
    with pytest.raises(InputError, match="gda cannot take new classes; base-to-new works for zero"):
        cafe.compare(home / "one" / "tiny.none.h5", methods=["gda"], base_to_new=True, runs=None)


def test_a_zero_shot_head_with_new_classes_is_the_zero_shot_head_of_them(home: Path) -> None:
    from cafe.features.tensors import TrainingSet
    from cafe.methods.zero_shot import ZeroShot

    task = load_task(FeatureCache.open(home / "one" / "tiny.none.h5"))
    whole = ZeroShot().fit(TrainingSet(task.splits["train"], task.text))
    part = type(task.text)(task.text.features[1:], task.text.names[1:], task.text.logit_scale)
    x = task.splits["test"].x
    torch.testing.assert_close(with_classes(whole, part).logits(x), whole.logits(x)[:, 1:])


def test_published_averages_are_those_of_the_eleven() -> None:
    """The log of each dataset and the average row were transcribed apart."""
    found = published.partial_averages(published.DATASETS, "RN50")
    rows = {row["cafe"]: row["accuracy"] for row in published.averages("RN50")}
    for method, shots in found.items():
        for count, value in shots.items():
            assert value == pytest.approx(rows[method][count], abs=0.006)


def test_backbones_are_told_apart() -> None:
    assert {row["cafe"] for row in published.averages("ViT-B-32-quickgelu")} == {"gda"}
    assert published.partial_averages(["dtd"], "ViT-B-32") == {}
    assert published.averages("nano") == []
    assert set(published.methods_with_averages()) >= {"zero-shot", "clip-adapter"}


def test_the_paper_beside_ours(tmp_path: Path) -> None:
    write_separable(tmp_path / "c" / "dtd" / "RN50.openai.h5", model="RN50", pretrained="openai")
    write_separable(tmp_path / "c" / "elsewhere" / "RN50.openai.h5", model="RN50")
    (found,) = reproduce(
        root=tmp_path / "c",
        methods=["zero-shot", "clip-adapter"],
        shots=[1],
        seeds=1,
        runs=tmp_path / "runs",
    )
    assert found.encoder == "RN50.openai"
    assert found.comparison.json["dataset"] == "dtd"
    rows = {row["cafe"]: row for row in found.published if row["cafe"]}
    assert rows["clip-adapter"]["accuracy"]["1"] == 45.80
    assert rows["clip-adapter"]["over"] == ["dtd"]
    assert len(rows["gda"]["over"]) == 11
    assert found.used[0].startswith("dtd: split unknown, 16 / 8 / 20 images; prompts like 'a class")
    text = "\n".join(found.warnings)
    for word in ("1 of the 11", "no cache of imagenet", "split_zhou", "4 classes", "texture"):
        assert word in text
    assert "CLIP-Adapter: published with validation 'not stated', ours 'none'" in text


def test_no_warning_where_all_is_as_published(tmp_path: Path) -> None:
    from cafe.datasets.catalog import KNOWN

    (known,) = (row for row in KNOWN if row.name == "eurosat")
    names = tuple(f"land {number}" for number in range(known.classes))
    noise = np.random.default_rng(0).standard_normal((known.classes, 1, 4), np.float32)
    splits = {}
    for split, size in zip(("train", "val", "test"), known.sizes, strict=True):
        y = np.arange(size, dtype=np.int32) % known.classes
        splits[split] = [Block([str(row) for row in range(size)], y, np.ones((size, 4), "f4"))]
    header = make_header(
        class_names=names,
        text_features=noise,
        sentences=tuple((f"a centered satellite photo of {name}.",) for name in names),
        source=f"CoOp's split ({known.split_file})",
        pretrained="openai",
    )
    path = tmp_path / "eurosat" / "RN50.openai.h5"
    write_cache(path, header, splits)
    assert published.protocol_differences(FeatureCache.open(path), "eurosat") == []


def test_no_cache_of_the_eleven(home: Path) -> None:
    with pytest.raises(CacheNotFoundError, match="no cache of the paper's eleven datasets"):
        reproduce(root=home)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cafe", "compare", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAFE_CACHE", str(home))
    words = ["--methods", "zero-shot,clip-adapter", "--shots", "1,2", "--seeds", "2"]
    assert call(monkeypatch, "one/tiny.none", *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {(r["method"], r["shots"]) for r in found["results"]} == {
        (method, shots) for method in ("zero-shot", "clip-adapter") for shots in (1, 2)
    }
    assert set(found["results"][0]["accuracy"]) == {"mean", "std", "ci95", "per_seed"}
    assert call(monkeypatch, "one/tiny.none", "two/tiny.none", *words) == 0
    out = capsys.readouterr().out
    for word in ("average-of-2", "points to clip-adapter, paired", "seconds", "*", "cafe report"):
        assert word in out
    assert "\033" not in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--paper", "one/tiny.none"], "--paper takes every cache"),
        (["--methods", ","], "names no method"),
        (["--methods", "gdo"], "did you mean gda"),
        (["--shots", "5"], "shots must be from 1 to 4"),
    ],
)
def test_bad_comparisons(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAFE_CACHE", str(home))
    assert call(monkeypatch, *words) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_trend_over_shots_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [
        Result("gda", shots, {}, Summary(mean, 0.0, None, (mean,)), seconds=1.0)
        for shots, mean in ((1, 50.0), (2, 60.0), (4, 70.0))
    ]
    print_over_shots(results)
    assert "trend" not in capsys.readouterr().out  # piped
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_over_shots(results)
    out = capsys.readouterr().out
    assert "trend" in out
    assert "▁" in out
    assert "█" in out


def test_an_interrupted_comparison_goes_on_and_is_told_of(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caches = [home / name / "tiny.none.h5" for name in ("one", "two")]

    def compare(**more: Any) -> cafe.Comparison:
        return cafe.compare(caches, methods=["gda"], shots=2, seeds=2, runs=tmp_path, **more)

    def stop(stage: str, *_: int) -> None:
        if "done" in stages:  # of the first cache
            raise KeyboardInterrupt
        stages.append(stage)

    stages: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        compare(progress=stop)
    notes: list[str] = []
    whole = cafe.compare(caches, methods=["gda"], shots=2, seeds=2, runs=None)
    assert cafe.compare(caches, methods=["lda"], shots=2, seeds=1, runs=tmp_path, note=notes.append)
    (left,) = list_unfinished(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["cafe", "runs", "ls", "--runs", str(tmp_path), "--json"])
        main()
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 4
    assert (
        f"1 folder of an unfinished grid or comparison in '{tmp_path}' ('{left.name}'): the same"
        in err
    )
    with monkeypatch.context() as patch:
        patch.setattr("cafe.study.finished.versions_here", lambda: {"torch": "another"})
        assert compare(note=notes.append)
    assert not notes
    again = compare(note=notes.append)
    assert notes == ["1 cache was compared earlier."]
    accuracies = [
        [[part.accuracy for part in record.results] for record in [*c.records, c.record]]
        for c in (again, whole)
    ]
    assert accuracies[0] == accuracies[1]
    assert not list(tmp_path.glob(".compare-*"))
    assert compare(note=notes.append).records[0].folder != again.records[0].folder
    assert len(notes) == 1
