"""The grid: what it is over, what it keeps, what it chooses, and what it says."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cafe
from cafe.engine import Recipe
from cafe.errors import BusyError, CafeError, InputError
from cafe.extract.importers import import_features
from cafe.methods.base import Context
from cafe.results.page import GridRow
from cafe.results.record import versions_here
from cafe.results.run_folders import list_unfinished
from cafe.store import FeatureCache
from cafe.study.grid.choose import choose
from cafe.study.grid.journal import Journal, journal_folder, open_journal
from cafe.study.grid.search import SHARED_CHOICE, search
from cafe.study.grid.space import Cell, Configuration, GridSpace, span

SWEEP = GridSpace(
    ratios=(0.1, 0.5),
    bottlenecks=("D/4", "8"),
    shots=(2, 4),
    seeds=(0, 1),
    validation="few-shot",
    recipe=Recipe(epochs=3),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("grid")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, 16)).astype(np.float32)
    arrays: dict[str, Any] = {
        "text_prompts": centres[:, None] + generator.normal(size=(3, 1, 16)),
        "class_names": np.array(["a", "b", "c"]),
    }
    for split, count in (("train", 6), ("val", 5), ("test", 20)):
        labels = np.arange(3).repeat(count)
        arrays[f"{split}_labels"] = labels
        noise = generator.normal(size=(len(labels), 16))
        arrays[f"{split}_features"] = (centres[labels] + 1.5 * noise).astype(np.float32)
    np.savez(folder / "toy.npz", **arrays)
    return import_features(folder / "toy.npz", folder / "toy" / "model.tag.h5")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.2", [0.2]),
        ("0.1,0.4", [0.1, 0.4]),
        ("0.1:0.9:0.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ("0:1:0.25,2", [0, 0.25, 0.5, 0.75, 1, 2]),
        ("", []),
    ],
)
def test_span(text: str, numbers: list[float]) -> None:
    assert span(text) == numbers


@pytest.mark.parametrize("text", ["x", "1:0:0.1", "0:1:0", "0:1:-1", "0:1", "1:2:3:4", "0:1:1e-9"])
def test_span_refuses(text: str) -> None:
    with pytest.raises(InputError):
        span(text)


@given(st.text(max_size=20))
def test_span_gives_numbers_or_an_input_error(text: str) -> None:
    try:
        numbers = span(text)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        assert np.isfinite(numbers).all()
    assert len(message.splitlines()) <= 1


@pytest.mark.parametrize("validation", ["few-shot", "full", "cv"])
def test_tests_only_what_validation_chose(
    cache: FeatureCache, tmp_path: Path, validation: Any
) -> None:
    found = search(cache, replace(SWEEP, validation=validation), runs=tmp_path)
    assert len(found.rows) == found.trained == 2 * 2 * 2 * 2
    for best in found.best:
        chosen = {name: best[name] for name in ("shots", "ratio", "bottleneck", "lr")}
        tested = [row for row in found.rows if row["test"] is not None and is_of(row, chosen)]
        assert [row["test"] for row in tested] == list(best["test"]["per_seed"])
        means = [mean_val(found.rows, {**chosen, **point}) for point in points()]
        assert best["val"] == pytest.approx(max(means))
    assert sum(row["test"] is not None for row in found.rows) == 2 * 2


def points() -> list[dict[str, Any]]:
    return [
        {"ratio": ratio, "bottleneck": bottleneck}
        for ratio in SWEEP.ratios
        for bottleneck in SWEEP.bottlenecks
    ]


def is_of(row: dict[str, Any], chosen: dict[str, Any]) -> bool:
    return all(row[name] == value for name, value in chosen.items())


def mean_val(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> float:
    values = [row["val"] for row in rows if is_of(row, chosen)]
    return sum(values) / len(values)


def test_leaves_every_run_as_rows(cache: FeatureCache, tmp_path: Path) -> None:
    found = search(cache, SWEEP, runs=tmp_path)
    folder = found.record.folder
    assert folder is not None
    assert rows_of(folder / "grid.jsonl") == found.rows
    table = (folder / "grid.csv").read_text().splitlines()
    assert table[0] == ",".join(GridRow.__annotations__)
    assert len(table) == 1 + len(found.rows)
    record = json.loads((folder / "record.json").read_text())
    assert record["best_per_shots"] == json.loads(json.dumps(found.best))
    assert (folder / "clip-adapter.4shot.seed0.safetensors").is_file()
    assert [path for path in tmp_path.iterdir() if path != folder] == []


class Interrupt:
    """Stops a grid like Ctrl-C, once a share of its work is done."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done > self.share * total:
            raise KeyboardInterrupt


def test_an_interrupted_grid_goes_on(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(cache, SWEEP, runs=tmp_path / "whole")
    monkeypatch.setattr("cafe.study.grid.train._LOT", 1)
    with pytest.raises(KeyboardInterrupt):
        search(cache, SWEEP, runs=tmp_path / "cut", progress=Interrupt(0.9))
    (waiting,) = (tmp_path / "cut").iterdir()
    kept = rows_of(waiting / "rows.jsonl")
    assert 0 < len(kept) < len(whole.rows)
    resumed = search(cache, SWEEP, runs=tmp_path / "cut")
    assert resumed.trained == len(whole.rows) - len(kept)
    for row, expected in zip(resumed.rows, whole.rows, strict=True):
        assert {**row, "val_nll": 0} == {**expected, "val_nll": 0}
        assert row["val_nll"] == pytest.approx(expected["val_nll"], rel=1e-4)


def test_cross_validation_keeps_rows_as_it_goes(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the last fold of all cells is trained."""
    monkeypatch.setattr("cafe.study.grid.train._LOT", 1)
    monkeypatch.setattr("cafe.study.grid.train._CELLS", 4)
    space = replace(SWEEP, validation="cv", ratios=(0.1, 0.3, 0.5, 0.7), shots=(4,))
    whole = search(cache, space, runs=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(cache, space, runs=tmp_path / "cut", progress=Interrupt(0.6))
    (waiting,) = (tmp_path / "cut").iterdir()
    kept = len(rows_of(waiting / "rows.jsonl"))
    assert kept >= len(space.cells) // 2
    resumed = search(cache, space, runs=tmp_path / "cut")
    assert resumed.trained == len(space.cells) - kept
    for row, expected in zip(resumed.rows, whole.rows, strict=True):
        assert {**row, "val_nll": 0} == {**expected, "val_nll": 0}
        assert row["val_nll"] == pytest.approx(expected["val_nll"], rel=1e-4)


def test_another_grid_does_not_take_its_rows(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(cache, SWEEP, runs=tmp_path, progress=Interrupt(0.1))
    other = replace(SWEEP, recipe=Recipe(epochs=2))
    assert search(cache, other, runs=tmp_path).trained == len(other.cells)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    values = (2, 0, 0.1, "D/4", 0.001, 50.0, 1.0, None)
    row = dict(zip(GridRow.__annotations__, values, strict=True))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row)[:30])
    journal = Journal(tmp_path / "rows.jsonl")
    assert list(journal.rows) == [Cell(2, 0, Configuration(0.1, "D/4", 0.001))]


def make_rows(count: int) -> list[GridRow]:
    return [
        {
            "shots": 2,
            "seed": number,
            "ratio": 0.1,
            "bottleneck": "D/4",
            "lr": 0.001,
            "val": 100 / (1 + number),
            "val_nll": 1 / 3,
            "test": None,
        }
        for number in range(count)
    ]


def test_a_journal_is_appended_to_and_each_row_has_its_digest(tmp_path: Path) -> None:
    path, rows = tmp_path / "new" / "rows.jsonl", make_rows(5)
    Journal(path).add(rows[:3])
    first = path.read_bytes()
    journal = Journal(path)
    assert list(journal.rows.values()) == rows[:3]
    journal.add(rows[3:])
    assert path.read_bytes().startswith(first)
    assert list(Journal(path).rows.values()) == rows
    assert all(len(row.pop("sha256")) == 16 for row in rows_of(path))
    journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_torn_at_any_byte_loses_that_row_alone(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", make_rows(3)
    Journal(path).add(rows)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        is_whole = length in (start, len(whole) - 1)  # no row is begun, or its line end is lacking
        assert journal.damaged == (0 if is_whole else 1)
        journal.add(rows[2:])
        assert list(Journal(path).rows.values()) == rows


def test_any_damaged_bit_costs_two_rows_at_most(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", make_rows(3)
    Journal(path).add(rows)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        kept = list(Journal(path).rows.values())
        assert len(kept) >= 1  # a lost line end joins two
        assert all(row in rows for row in kept)


@pytest.mark.parametrize(
    "line", [b"", b"[" * 100_000, b"null", b"{}", b"\xff\xfe", b'{"shots": 1e999}', b"\0" * 1000]
)
def test_lines_that_are_no_rows(tmp_path: Path, line: bytes) -> None:
    path, rows = tmp_path / "rows.jsonl", make_rows(2)
    Journal(path).add(rows[:1])
    with path.open("ab") as stream:
        stream.write(line + b"\n")
    journal = Journal(path)
    journal.add(rows[1:])
    assert journal.damaged == bool(line)
    assert list(Journal(path).rows.values()) == rows


def test_a_journal_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "rows.jsonl")
    with pytest.raises(CafeError, match=r"cannot keep finished runs in .*; choose another folder"):
        journal.add(make_rows(1))
    assert journal.rows == {}
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(CafeError, match="cannot keep finished runs"):
        Journal(tmp_path / "rows.jsonl")


def test_the_work_of_a_journal_grows_with_its_rows_and_no_faster(tmp_path: Path) -> None:
    """Counted, as a loaded machine stretches the time: calls of functions, and bytes of files."""
    counters = Path("/proc/thread-self/io")

    def moved() -> int:
        text = counters.read_text() if counters.exists() else ""
        return sum(int(line.split()[1]) for line in text.splitlines() if line[1:5] == "char")

    def work(count: int) -> tuple[int, int]:
        path, rows, events = tmp_path / f"{count}.jsonl", make_rows(count), itertools.count()
        before, profile = moved(), sys.getprofile()
        sys.setprofile(lambda *_: next(events))
        try:
            journal = Journal(path)
            for first in range(0, count, 100):
                journal.add(rows[first : first + 100])
            assert len(Journal(path).rows) == count
        finally:
            sys.setprofile(profile)
        return next(events), moved() - before

    work(100)  # what is imported or compiled when first used does not count
    few, many = work(500), work(5_000)
    assert many[0] < 11 * few[0]
    assert many[1] <= 11 * few[1]


def test_a_grid_is_trained_by_one_process_at_a_time(cache: FeatureCache, tmp_path: Path) -> None:
    with open_journal(cache, SWEEP, "fp32", tmp_path, print) as journal:
        with pytest.raises(BusyError, match="another process trains this grid; wait for it"):
            search(cache, SWEEP, Context(precision="fp32"), tmp_path)
        journal.add(make_rows(1))
        assert search(cache, SWEEP, Context(precision="bf16"), tmp_path).trained
        assert len(Journal(journal_folder(cache, SWEEP, "fp32", tmp_path) / "rows.jsonl").rows) == 1


def killed(cache: FeatureCache, runs: Path, **changes: Any) -> int:
    """Rows that a grid keeps that is killed half-way."""
    with pytest.raises(KeyboardInterrupt):
        search(cache, SWEEP, runs=runs, progress=Interrupt(0.5), **changes)
    (journal,) = [folder / "rows.jsonl" for folder in list_unfinished(runs)]
    return len(rows_of(journal))


def test_rows_of_another_content_are_not_taken(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cafe.study.grid.train._LOT", 1)
    assert killed(cache, tmp_path / "runs")
    source = cache.path.parents[1] / "toy.npz"
    again = import_features(source, tmp_path / "toy" / "model.tag.h5", logit_scale=5)
    assert search(again, SWEEP, runs=tmp_path / "runs").trained == len(SWEEP.cells)
    same = import_features(source, tmp_path / "toy" / "model.tag.h5")
    told: list[str] = []
    resumed = search(same, SWEEP, runs=tmp_path / "runs", note=told.append)
    assert 0 < resumed.trained < len(SWEEP.cells)
    assert told[0].startswith(f"{len(SWEEP.cells) - resumed.trained} runs were finished earlier")


def test_rows_of_another_version_are_not_taken(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cafe.study.grid.train._LOT", 1)
    assert killed(cache, tmp_path)
    later = {**versions_here(), "cafe-clip": "99.0"}
    with monkeypatch.context() as patch:
        patch.setattr("cafe.study.grid.journal.versions_here", lambda: later)
        assert search(cache, SWEEP, runs=tmp_path).trained == len(SWEEP.cells)
    again = search(cache, SWEEP, runs=tmp_path)
    assert again.trained < len(SWEEP.cells)
    assert again.record.fitted_with == versions_here()


def test_rows_of_another_precision_are_not_taken(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cafe.study.grid.train._LOT", 1)
    kept = killed(cache, tmp_path, context=Context(precision="bf16"))
    monkeypatch.setattr("cafe.study.grid.search.resolve_precision", lambda asked, _: asked)
    fp32 = search(cache, SWEEP, Context(precision="fp32"), tmp_path)
    assert fp32.trained == len(SWEEP.cells)
    auto = search(cache, SWEEP, Context(precision="auto"), tmp_path)  # goes on in its precision
    assert auto.trained == len(SWEEP.cells) - kept


def written_before(cache: FeatureCache, runs: Path) -> Path:
    """The folder of the same grid that cafe 0.1 was interrupted in, with one row."""
    name = hashlib.sha256(
        json.dumps({"key": dict(cache.header.key), **asdict(SWEEP)}, sort_keys=True).encode()
    ).hexdigest()[:12]
    folder = runs / f".grid-{name}"
    folder.mkdir()
    row = {**make_rows(1)[0], "val": 12.5}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def with_key(cache: FeatureCache, **key: str) -> FeatureCache:
    return replace(cache, header=replace(cache.header, key=key))


def test_a_journal_of_before_is_taken_with_a_word(cache: FeatureCache, tmp_path: Path) -> None:
    cache, told = with_key(cache, weights_sha256="0"), list[str]()
    before = written_before(cache, tmp_path)
    found = search(cache, SWEEP, runs=tmp_path, note=told.append)
    assert found.trained == len(SWEEP.cells) - 1
    assert [row["val"] for row in found.rows].count(12.5) == 1
    assert not before.exists()
    assert "do not say in which precision" in told[0]


def test_a_journal_that_does_not_know_its_content_is_left_alone(
    cache: FeatureCache, tmp_path: Path
) -> None:
    cache, told = with_key(cache, imported_sha256="0", text_sha256="0"), list[str]()
    before = written_before(cache, tmp_path)
    assert search(cache, SWEEP, runs=tmp_path, note=told.append).trained == len(SWEEP.cells)
    assert before.exists()
    assert "are left alone: they do not say of which content" in told[0]


def test_ties_go_to_the_likelier_then_the_smaller_ratio() -> None:
    def chosen(*values: tuple[float, float, float]) -> float:
        space = GridSpace([ratio for ratio, _, _ in values], seeds=[0])
        cells = [Cell(1, 0, Configuration(ratio, "D/4", 0.001)) for ratio in space.ratios]
        rows = [{"val": accuracy, "val_nll": nll} for _, accuracy, nll in values]
        point = choose(dict(zip(cells, rows, strict=True)), space, 1)
        assert point is not None
        return point.ratio

    assert chosen((0.1, 80, 1.0), (0.2, 81, 2.0)) == 0.2
    assert chosen((0.4, 80, 0.9), (0.2, 80, 1.0)) == 0.4
    assert chosen((0.4, 80, 1.0), (0.2, 80, 1.0)) == 0.2


def test_one_shot_takes_what_is_nearest_to_the_defaults(
    cache: FeatureCache, tmp_path: Path
) -> None:
    space = replace(SWEEP, ratios=(0.1, 0.25, 0.5), shots=(1, 2), validation="cv")
    found = search(cache, space, runs=tmp_path)
    assert {row["shots"] for row in found.rows} == {2}
    one, two = found.best
    assert (one["ratio"], one["bottleneck"], one["val"]) == (0.25, "D/4", None)
    assert len(one["test"]["per_seed"]) == 2
    assert two["val"] is not None
    words = found.record.json["protocol"]["words"]
    assert "every method keeps its defaults. " in words
    assert f"{SHARED_CHOICE} The grid took its configuration nearest to them." in words
    only = search(cache, replace(space, shots=(1,)), runs=tmp_path / "only")
    assert (only.rows, only.trained, only.best[0]["ratio"]) == ([], 0, 0.25)
    assert SHARED_CHOICE not in only.record.protocol.words
    alone = search(cache, replace(space, shots=(2,), seeds=(1,)), runs=tmp_path / "alone")
    assert SHARED_CHOICE not in alone.record.protocol.words


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ratios": ()}, "empty grid"),
        ({"validation": "none"}, "never on the test set"),
        ({"branch": "audio"}, "unknown branch"),
    ],
)
def test_sweeps_that_cannot_be_meant(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        replace(SWEEP, **change)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ratios": (0.1, 1.5)}, "ratio must be from 0"),
        ({"bottlenecks": ("D/4", "1000")}, "bottleneck must be from 1"),
        ({"bottlenecks": ("wide",)}, "bottleneck"),
        ({"shots": (2, 7)}, "shots must be from 1 to 6"),
    ],
)
def test_sweeps_that_do_not_fit_the_cache(
    cache: FeatureCache, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(CafeError, match=text):
        search(cache, replace(SWEEP, **change), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_grid_of_more_runs_than_allowed_is_refused_with_its_time(cache: FeatureCache) -> None:
    with pytest.raises(InputError, match=r"8 runs, .* hours or more .*max_runs=None"):
        cafe.grid(cache, ratio=[0.2, 0.6], bottleneck="D/4, 8", shots=2, seeds=2, max_runs=7)
