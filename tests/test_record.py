"""The record of a run as types: what is written is read, and nonsense is one clear line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cafe.errors import CafeError, InputError
from cafe.results.metrics import summarize
from cafe.results.page import read_grid_rows, read_page
from cafe.results.record import Record, RecordedEncoder, RecordedProtocol, read_record
from cafe.results.result import NOT_CALIBRATED, Calibration, ChosenConfiguration, Result
from cafe.results.runs import HeadSelector, find_head, newest_run, save_run

CALIBRATION = Calibration(1.5, "validation", 8)
CHOSEN = ChosenConfiguration(4, 0.2, "D/4", 1e-3, 61.0, summarize([60.0, 62.0]))
RECORD = Record(
    cache="cache/digits/nano.glyphs.h5",
    dataset="digits",
    encoder=RecordedEncoder("nano", "glyphs", "ab12"),
    protocol=RecordedProtocol((1, "all"), (0, 1), "cv", "In words."),
    results=(
        Result("gda", 1, {"alpha": [1.0, 2.0]}, summarize([50.0, 52.0]), 0.5, {"nll": 1.0}),
        Result("gda", "all", {}, summarize([80.0, 82.0]), 0.5, calibration=CALIBRATION),
        Result("clip-adapter", 1, {}, summarize([51.0, 57.0]), 0.5, calibration=NOT_CALIBRATED),
    ),
    command="cafe fit",
    created="2026-01-01T00:00:00+00:00",
    versions={"torch": "2.8"},
    cache_key={"model": "nano"},
    best=CHOSEN,
    best_per_shots=(CHOSEN,),
    seconds=1.0,
    runs_per_second=2.0,
    class_names=("a", "b"),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    row: Any = dict(zip(GRID_COLUMNS, (4, 0, 0.2, "D/4", 1e-3, 61.0, 1.0, None), strict=True))
    saved = save_run(RECORD, tmp_path, [row])
    assert saved.folder is not None
    assert read_record(saved.folder) == replace(saved, class_names=())
    assert json.loads((saved.folder / "record.json").read_text()) == RECORD.json
    assert read_page(saved.folder).class_names == ("a", "b")
    assert read_grid_rows(saved.folder) == [row]
    assert [path for path in tmp_path.iterdir() if path != saved.folder] == []


GRID_COLUMNS = ("shots", "seed", "ratio", "bottleneck", "lr", "val", "val_nll", "test")


def test_encoders_differ_by_weights_where_they_are_known() -> None:
    encoder = RecordedEncoder("RN50", "openai", "ab")
    assert not encoder.differs_from(RecordedEncoder("RN50-quickgelu", "openai", "ab"))
    assert encoder.differs_from(RecordedEncoder("RN50", "openai", "cd"))
    assert not encoder.differs_from(RecordedEncoder("RN50", "openai"))


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("results.0.accuracy.mean", 101.0, "results.0.accuracy.mean"),
        ("results.0.accuracy.per_seed", [1.0], "gda does not have one accuracy per seed"),
        ("results.0.method", "../gda", "results.0.method"),
        ("results.0.shots", "<script>", "results.0.shots"),
        ("results.0.seconds", -1, "results.0.seconds"),
        ("results.1.calibration.temperature", 0, "results.1.calibration.temperature"),
        ("protocol.seeds", [], "protocol.seeds"),
        ("protocol.validation", "test", "protocol.validation"),
        ("runs", ["../elsewhere"], "runs.0"),
        ("results", [], "results"),
        ("results.0.metrics", {"\n": None}, r"metrics.\n"),
        ("dataset", None, "dataset"),
    ],
)
def test_what_is_out_of_bounds_is_named(tmp_path: Path, place: str, value: Any, field: str) -> None:
    values = copy.deepcopy(RECORD.json)
    *parts, last = place.split(".")
    holder: Any = values
    for part in parts:
        holder = holder[int(part) if part.isdigit() else part]
    holder[last] = value
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        read_record(tmp_path)
    assert "record.json' is damaged" in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def leaves(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key of a JSON value."""
    keys = list(values) if isinstance(values, dict) else range(len(values))
    for key in keys:
        yield values, key
        if isinstance(values[key], dict | list):
            yield from leaves(values[key])


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ODD = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(st.text(), PLAIN, max_size=1))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_edited_record_is_read_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    values = copy.deepcopy(RECORD.json)
    places = list(leaves(values))
    holder, key = places[data.draw(st.integers(0, len(places) - 1))]
    holder[key] = data.draw(ODD)
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(CafeError) as caught:  # there are no heads, at the least
        find_head(newest_run(tmp_path), HeadSelector(method="gda"))
    assert "\n" not in str(caught.value)


def test_page_names_its_classes(tmp_path: Path) -> None:
    confusion = {"label": 0, "predicted": 2, "images": 1.0, "share": 5.0, "rows": [1]}
    row = {"method": "gda", "shots": 1, "per_class": [1.0, None], "confusions": [confusion]}
    page = {"class_names": ["a", "b"], "results": [row]}
    (tmp_path / "page.json").write_text(json.dumps(page))
    with pytest.raises(InputError, match=r"gda has more classes than the 2 names"):
        read_page(tmp_path)
