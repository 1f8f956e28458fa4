"""The results of a run as tables: of what was fitted now and of what is read back, the same."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from digits_run import digits_run
from making import make_block, make_header

import cafe
from cafe.errors import InputError
from cafe.results import predictions
from cafe.results.predictions import COLUMNS, PREDICTIONS, HeadName
from cafe.results.record import Record, read_record
from cafe.store import Block, write_cache


def noise(
    folder: Path, names: tuple[str, ...] = ("a", "b", "c", "d"), id_of: str = "{}.png"
) -> Path:
    """A cache of noise with a test split of 40 images."""
    path, classes = folder / "cache/noise/tiny.none.h5", len(names)
    header = make_header(classes=classes, class_names=names)
    splits = {}
    for number, (split, rows) in enumerate({"train": 60, "test": 40}.items()):
        block = make_block(rows, start=100 * number)
        labels = np.arange(rows, dtype=np.int32) % classes
        ids = [f"{split}/{id_of.format(row)}" for row in range(rows)]
        splits[split] = [Block(ids, labels, block.features)]
    write_cache(path, header, splits)
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("noise")
    methods = ["clip-adapter", "gda"]
    settings: Any = {"shots": [1, 4], "seeds": [3, 5], "epochs": 2, "device": "cpu"}
    return cafe.fit(noise(folder), method=methods, runs=folder / "runs", **settings)


def read_back(record: Record) -> Record:
    assert record.folder is not None
    return read_record(record.folder)


def test_one_row_for_each_method_shot_count_and_seed(record: Record) -> None:
    for one in (record, read_back(record)):
        frame = one.frame()
        assert list(frame.columns) == [
            "dataset",
            "encoder",
            "method",
            "shots",
            "seed",
            "accuracy",
            "learning",
        ]
        assert len(frame) == sum(len(result.accuracy.per_seed) for result in record.results) == 16
        means = frame.groupby(["method", "shots"])["accuracy"].mean()
        for result in record.results:
            assert means[result.method, result.shots] == pytest.approx(result.accuracy.mean)
        assert set(frame["seed"]) == {3, 5}


def test_every_image_has_a_row_for_each_head(record: Record) -> None:
    assert record.folder is not None
    table = pd.read_csv(record.folder / PREDICTIONS)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 40 * 16
    assert set(table["split"]) == {"test"}
    cache = cafe.FeatureCache.open(str(record.cache))
    assert tuple(dict.fromkeys(table["id"])) == cache.ids("test")
    assert table["probability"].between(0.25, 1).all()
    table["right"] = 100.0 * (table["label"] == table["guess"])
    rights = table.groupby(["method", "shots", "seed"])["right"].mean()
    for row in record.frame().itertuples():
        assert rights[row.method, row.shots, row.seed] == pytest.approx(row.accuracy, abs=1e-4)


def test_the_rows_are_what_the_heads_say(tmp_path_factory: pytest.TempPathFactory) -> None:
    work = digits_run(tmp_path_factory)
    saved = cafe.load_head(work / "runs/mine/clip-adapter.4shot.seed1.safetensors")
    cache = cafe.FeatureCache.open(work / "cache/digits/nano.glyphs.h5")
    expected = saved.probabilities(cache.read("test", dtype=np.float32).features)
    table = pd.read_csv(work / "runs/mine" / PREDICTIONS)
    own = table[(table.method == "clip-adapter") & (table.shots == 4) & (table.seed == 1)]
    names = np.array(saved.class_names)
    assert (own.guess.to_numpy() == names[expected.argmax(axis=1)]).mean() > 0.995  # ties of bits
    assert (own.label.to_numpy() == names[cache.labels("test")]).all()
    np.testing.assert_allclose(own.probability, expected.max(axis=1), atol=2e-3)


def test_accuracies_of_classes(record: Record) -> None:
    for one in (record, read_back(record)):
        frame = one.per_class()
        assert list(frame.columns) == ["method", "shots", "label", "accuracy"]
        assert len(frame) == 4 * len(record.results)
        own = frame[(frame.method == "gda") & (frame.shots == 4)]
        assert list(own.label) == ["a", "b", "c", "d"]
        confusion = one.confusion("gda", shots=4).to_numpy()
        shares = 100 * np.diag(confusion) / confusion.sum(axis=1)
        np.testing.assert_allclose(own.accuracy, shares, atol=0.01)


def test_confusions(record: Record) -> None:
    now, later = record.confusion("clip-adapter"), read_back(record).confusion("clip-adapter")
    pd.testing.assert_frame_equal(now, later)
    assert (now.index.name, now.columns.name) == ("label", "guess")
    assert now.to_numpy().sum() == 40
    each = [record.confusion("clip-adapter", shots=4, seed=seed) for seed in (3, 5)]
    pd.testing.assert_frame_equal(now, (each[0] + each[1]) / 2)
    accuracy = record.frame().query("method == 'clip-adapter' and shots == 4 and seed == 5")
    found = 100 * np.trace(each[1]) / 40
    assert found == pytest.approx(float(accuracy["accuracy"].iloc[0]))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"method": "gdaa"}, "unknown method of this run 'gdaa'; did you mean gda"),
        (
            {"method": "gda", "shots": 2},
            "no head of gda with 2 shots and seed 3; .* shots 1, 4",
        ),
        ({"method": "gda", "seed": 0}, "with 4 shots and seed 0; it has .* seeds 3, 5"),
    ],
)
def test_heads_that_the_run_does_not_have(record: Record, asked: Any, text: str) -> None:
    for one in (record, read_back(record)):
        with pytest.raises(InputError, match=text):
            one.confusion(**asked)


def test_runs_of_earlier_versions_and_damaged_ones(record: Record, tmp_path: Path) -> None:
    assert record.folder is not None
    copy = Path(shutil.copytree(record.folder, tmp_path / "run"))
    path = copy / PREDICTIONS
    whole = path.read_text()
    for text in (
        whole.replace(",b,", ",stranger,"),
        whole.replace("guess", "guessed"),
        whole[: len(whole) // 2] + '"',
        "",
        "\xff",
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=rf"'{path}' (is damaged|has no row of gda)"):
            read_record(copy).confusion("gda")
    path.unlink()
    with pytest.raises(InputError, match=r"has no predictions.csv: .*; fit again"):
        read_record(copy).confusion("gda")
    (copy / "page.json").unlink()
    with pytest.raises(InputError, match="has no accuracies of classes"):
        read_record(copy).per_class()


def test_a_run_that_is_not_saved(tmp_path: Path) -> None:
    record = cafe.fit(noise(tmp_path), method="gda", shots="all", seeds=1, runs=None)
    assert record.confusion("gda").to_numpy().sum() == 40
    assert record.per_class()["shots"].tolist() == ["all"] * 12
    assert set(record.frame()["shots"]) == {"all"}


def test_base_to_new_and_averages(tmp_path: Path) -> None:
    path = noise(tmp_path, ("a", "b", "c", "d", "e"))
    options: Any = {"methods": ["zero-shot", "clip-adapter"], "shots": [2], "seeds": 2}
    done = cafe.compare(path, base_to_new=True, runs=tmp_path / "runs", epochs=2, **options)
    frame = done.record.frame()
    assert {"new", "harmonic_mean"} < set(frame.columns)
    for one in (done.record, read_back(done.record)):
        confusion = one.confusion("clip-adapter").to_numpy()
        assert confusion.sum() == 40
        assert confusion[:3, 3:].sum() == confusion[3:, :3].sum() == 0
        parts = confusion[:3, :3], confusion[3:, 3:]
        halves = [100 * np.trace(part) / part.sum() for part in parts]
        own = frame[frame.method == "clip-adapter"]
        assert halves == pytest.approx([own.accuracy.mean(), own.new.mean()])
    average = cafe.compare([path, path], runs=tmp_path / "runs", epochs=2, **options).record
    assert len(average.frame()) == 4
    for table in (average.per_class, lambda: average.confusion("zero-shot")):
        with pytest.raises(InputError, match=r"no accuracies|no predictions.csv: it is an average"):
            table()


def test_grids_have_predictions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_SLAB", 20)  # fewer than images: several slabs
    found = cafe.grid(
        noise(tmp_path),
        ratio=[0.2, 0.6],
        bottleneck=4,
        shots=[2, 4],
        seeds=2,
        epochs=2,
        runs=tmp_path / "runs",
    )
    record = found.record
    assert record.folder is not None
    assert len(pd.read_csv(record.folder / PREDICTIONS)) == 40 * len(record.frame())
    pd.testing.assert_frame_equal(
        record.confusion("clip-adapter"), read_back(record).confusion("clip-adapter")
    )
    assert repr(found).splitlines()[0].endswith(": 8 judged runs")


NAMES = ("=1+1", "-1", "@x", 'a "b", c\n', "+1", "Ölammer")


def test_names_stand_as_they_are(tmp_path: Path) -> None:
    path = noise(tmp_path, NAMES)
    record = cafe.fit(path, method="gda", shots=2, seeds=1, runs=tmp_path / "runs")
    assert record.folder is not None
    with (record.folder / PREDICTIONS).open(newline="", encoding="utf-8") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == set(NAMES)
    assert list(read_back(record).confusion("gda").index) == list(NAMES)


def test_names_that_are_equal_and_ids_that_are_not_utf8(tmp_path: Path) -> None:
    names = ("crane", r"caf\xe9", "crane", "auk")
    path = noise(tmp_path, names, id_of="{}-\udce9.png")
    record = cafe.fit(path, method="gda", shots=2, seeds=1, runs=tmp_path / "runs")
    shown = ["crane (0)", r"caf\xe9", "crane (2)", "auk"]
    for one in (record, read_back(record)):
        assert list(one.confusion("gda").columns) == shown
        assert list(one.per_class()["label"].unique()) == shown
    assert record.folder is not None
    assert set(pd.read_csv(record.folder / PREDICTIONS)["id"]) >= {
        r"test/0-\xe9.png",
        r"test/39-\xe9.png",
    }


def test_large_runs_keep_the_heads_that_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [HeadName(m, s, seed) for s in (1, 4) for m in ("zero-shot", "gda") for seed in (0, 1)]
    kept = predictions._those_that_fit(heads, 3)
    assert kept == [HeadName("gda", 1, 0), HeadName("zero-shot", 4, 0), HeadName("gda", 4, 0)]
    assert predictions._those_that_fit(heads, 99) == heads
    monkeypatch.setattr(predictions, "MOST_ROWS", 80)
    record = cafe.fit(noise(tmp_path), method="gda", shots=2, seeds=2, runs=tmp_path / "runs")
    assert record.folder is not None
    assert len(pd.read_csv(record.folder / PREDICTIONS)) == 80
    assert read_back(record).confusion("gda").equals(record.confusion("gda", seed=0))
    with pytest.raises(InputError, match="has no row of zero-shot"):
        read_back(record).confusion("zero-shot")


def test_a_cache_that_is_gone_costs_no_run(
    record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from cafe.results.runs import save_run

    moved = Path(shutil.copy(str(record.cache), tmp_path / "moved.h5"))
    lost = replace(record, opened=cafe.FeatureCache.open(moved))
    moved.unlink()
    saved = save_run(lost, tmp_path / "runs")
    assert saved.folder is not None
    assert not (saved.folder / PREDICTIONS).exists()
    assert (saved.folder / "record.json").is_file()
    assert "predictions.csv is left out of the run" in caplog.text


def test_pandas_is_asked_for_in_one_line(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (record.frame, record.per_class, lambda: record.confusion("gda")):
        with pytest.raises(InputError, match=r"needs pandas, .* pip install 'cafe-clip\[pandas\]'"):
            table()
