"""A grid of many runs that is killed again and again ends with the numbers of one that was not.

Some hundred runs, or, with CAFE_LONG_FAULTS=1, 20,000 of them, which are killed at any moment.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.checking import check_whole, hidden
from faults.conftest import Work
from faults.harness import KILLED, LONG, Answer, Cafe

from cafe.results.page import GridRow, read_grid_rows
from cafe.results.record import read_record

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RATES = ",".join(f"{0.001 * (1 + number):g}" for number in range(10))
SIZE = ["--ratio", "0.01:1:0.01", "--bottleneck", "1,2,3,4", "--seeds", "5"] if LONG else []
SIZE = SIZE or ["--ratio", "0.02:0.6:0.02", "--bottleneck", "1,2", "--seeds", "1"]
RUNS = 20_000 if LONG else 600
GRID = ["grid", "trees/toy.test", *SIZE, "--lr", RATES, "--shots", "2", "--epochs", "1"]
GRID += ["--device", "cpu", "--precision", "fp32", "--yes", "--validation"]


def grid_of(folder: Path) -> Path:
    """The one saved grid."""
    (rows,) = folder.glob("runs/*/grid.jsonl")
    return rows.parent


def rows_of(folder: Path) -> dict[tuple[Any, ...], GridRow]:
    """The runs of the one saved grid by what they are."""
    rows = read_grid_rows(grid_of(folder))
    return {(row["seed"], row["ratio"], row["bottleneck"], row["lr"]): row for row in rows}


def finished_earlier(answer: Answer) -> int:
    """The runs that a sitting found finished, as it says."""
    found = re.search(r"([\d,]+) runs were finished earlier", answer.err)
    return int(found[1].replace(",", "")) if found else 0


def sit_until_done(sit: Callable[[], Answer], folder: Path) -> tuple[int, list[int]]:
    """Run a grid until a sitting is not killed; gives the kills and what each sitting found."""
    found: list[int] = []
    while (answer := sit()).code == KILLED:
        found.append(finished_earlier(answer))
        check_whole(folder)
        assert len(found) < 200
    assert answer.code == 0, answer.err
    return len(found), [*found, finished_earlier(answer)]


def same_grid(one: Path, other: Path) -> None:
    """Whether two folders hold a grid of the same numbers, but for rounding."""
    rows, others = rows_of(one), rows_of(other)
    assert len(rows) == RUNS
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        other_row = others[key]
        assert row["val"] == other_row["val"]
        assert row["val_nll"] == pytest.approx(other_row["val_nll"], rel=1e-4, abs=1e-5)
    first, second = (read_record(grid_of(folder)).json["best"] for folder in (one, other))
    assert first == second


def test_killed_at_changes_of_files(cafe: Cafe, work: Work) -> None:
    words = [*GRID, "few-shot"]
    whole, folder = work(), work()
    changes = cafe.count_changes(words, whole)
    # rows are kept in the first half of the changes; the third sitting reads none of them
    places = iter([changes // 7, changes // 8, 3, changes // 8, *[10**9] * 9])
    kills, found = sit_until_done(lambda: cafe.run(words, folder, kill_at=next(places)), folder)
    assert kills == 4
    assert 0 < found[1] < found[-1] < RUNS
    assert [n for n in found if n] == sorted(n for n in found if n)
    assert hidden(folder) == []
    same_grid(folder, whole)


def test_killed_while_it_cross_validates(cafe: Cafe, work: Work) -> None:
    """Each run is trained on several folds, and has a row when all of them are judged."""
    words = [*GRID, "cv"]
    whole, folder = work(), work()
    places = iter([2 * cafe.count_changes(words, whole) // 5, *[10**9] * 9])
    kills, found = sit_until_done(lambda: cafe.run(words, folder, kill_at=next(places)), folder)
    assert kills == 1
    assert RUNS // 4 < found[-1] < RUNS
    same_grid(folder, whole)


@pytest.mark.skipif(not LONG, reason="CAFE_LONG_FAULTS=1 runs it")
@pytest.mark.parametrize("validation", ["few-shot", "cv"])
def test_killed_at_any_moment(validation: str, cafe: Cafe, work: Work) -> None:
    words, moments = [*GRID, validation], random.Random(0)  # noqa: S311
    whole, folder = work(), work()
    start = time.monotonic()
    assert cafe.run(words, whole).code == 0
    seconds = time.monotonic() - start

    def sit() -> Answer:
        process = cafe.start(words, folder)
        time.sleep(moments.uniform(0.02, 0.15) * seconds)
        os.kill(process, 9)  # a process that has ended stays until it is waited for
        return cafe.end(process)

    kills, found = sit_until_done(sit, folder)
    assert kills >= 8
    assert [n for n in found if n] == sorted(n for n in found if n)
    assert hidden(folder) == []
    same_grid(folder, whole)
