"""`cafe.grid`: train a whole sweep as one tensor program, choose on validation, test once.

Every run of the sweep is scored on validation images alone and its row is kept on disk as soon as
its chunk is done, so an interrupted grid goes on where it stopped. Per shot count the configuration
with the best mean over seeds is chosen; the ordinary study fits and tests that one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cafe.features.splits import Shots
from cafe.features.task import Task, load_task
from cafe.files import write_text
from cafe.methods.base import Context
from cafe.results.metrics import summarize
from cafe.results.plan import Result
from cafe.results.record import Record, make_record, save_run
from cafe.store import FeatureCache
from cafe.study.calibration import calibrate
from cafe.study.grid.journal import FIELDS, Journal, Row
from cafe.study.grid.space import BRANCHES, Cell, Configuration, GridSpace, check_space
from cafe.study.grid.train import Progress, plan_for, train_grid
from cafe.study.study import check_plan, protocol_in_words, run


@dataclass(frozen=True)
class GridResult:
    """What a grid found.

    Attributes
    ----------
    rows : list of dict
        One per run: `shots`, `seed`, `ratio`, `bottleneck`, `lr`, `val` (percent), `val_nll`, and
        `test` (percent), which is None but for the chosen configurations.
    best : list of dict
        One per shot count: the chosen configuration, its mean `val`, and its `test` over seeds.
    seconds : float
        Time of the sweep, earlier sittings not counted.
    trained : int
        Runs that this sitting trained.
    record : Record
        The study of the chosen configurations and the baselines, as it was saved.
    """

    rows: list[Row]
    best: list[Row]
    seconds: float
    trained: int
    record: Record

    def json(self) -> dict[str, Any]:
        """The grid as JSON values."""
        return {
            **self.record.json,
            "runs": self.rows,
            "best": self.best[-1],
            "best_per_shots": self.best,
            "seconds": self.seconds,
            "runs_per_second": self.trained / self.seconds if self.seconds else 0.0,
        }


def grid(
    cache: FeatureCache,
    space: GridSpace,
    *,
    context: Context | None = None,
    runs: Path = Path("runs"),
    command: str = "",
    progress: Progress | None = None,
) -> GridResult:
    """Train every run of a sweep, choose per shot count on validation, and test the chosen once.

    Parameters
    ----------
    cache : FeatureCache
    sweep : GridSpace
    context : Context, optional
        Where and how to compute; None is the CPU.
    runs : Path
        Folder that the run is saved in; finished rows of an interrupted grid wait there too.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        Called with a stage, the run-epochs done and those in all.

    Returns
    -------
    GridResult

    Raises
    ------
    InputError
        If the sweep does not fit the cache or one run does not fit the memory budget.
    """
    context = context or Context()
    task = load_task(cache)
    check_space(space, task.width)
    check_plan(task, plan_for(space, space.points[0], space.shots))
    waiting = runs / f".grid-{_digest(cache, space)}"
    journal = Journal(waiting / "rows.jsonl")
    start, before = time.perf_counter(), len(journal.rows)
    train_grid(task, space, journal, context, progress)
    seconds = time.perf_counter() - start
    chosen = {shots: choose(journal.rows, shots) for shots in space.shots}
    results = _test(task, space, chosen, context)
    plan = plan_for(space, chosen[space.shots[-1]], space.shots)
    words, sure = protocol_in_words(task, plan), calibrate(cache, plan, results)
    record = make_record(cache, plan, words, results, command, sure)
    record = save_run(record, runs)
    rows, best = _tested(journal.rows, chosen, results, space)
    found = GridResult(rows, best, seconds, len(journal.rows) - before, record)
    _save(found, record.folder)
    shutil.rmtree(waiting, ignore_errors=True)
    return found


def _digest(cache: FeatureCache, space: GridSpace) -> str:
    """Names the sweep, so that the same command finds its own rows and no others."""
    values = {"key": dict(cache.header.key), **asdict(space)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def choose(rows: Mapping[Cell, Row], shots: Shots) -> Configuration:
    """The configuration with the best mean validation accuracy over seeds.

    Of equals the one with the lower negative log-likelihood, then the smaller ratio.
    """
    found: dict[Configuration, list[Row]] = defaultdict(list)
    for cell, row in rows.items():
        if cell.shots == shots:
            found[cell.point].append(row)

    def rank(point: Configuration) -> tuple[float, float, float]:
        mine = found[point]
        accuracy = sum(row["val"] for row in mine) / len(mine)
        return -round(accuracy, 9), sum(row["val_nll"] for row in mine) / len(mine), point.ratio

    return min(found, key=rank)


def _test(
    task: Task, space: GridSpace, chosen: Mapping[Shots, Configuration], context: Context
) -> list[Result]:
    results: list[Result] = []
    for shots, point in chosen.items():
        results += run(task, plan_for(space, point, [shots]), context=context)
    return results


def _tested(
    rows: Mapping[Cell, Row],
    chosen: Mapping[Shots, Configuration],
    results: Sequence[Result],
    space: GridSpace,
) -> tuple[list[Row], list[Row]]:
    """All rows, the chosen ones with their test accuracy; and the chosen, one per shot count."""
    scores = {r.shots: r.accuracy for r in results if r.method == BRANCHES[space.branch]}
    everything = []
    for cell in space.cells:
        row = dict(rows[cell])
        if chosen[cell.shots] == cell.point:
            row["test"] = scores[cell.shots].per_seed[list(space.seeds).index(cell.seed)]
        everything.append(row)
    best = []
    for shots, point in chosen.items():
        val = summarize([rows[Cell(shots, seed, point)]["val"] for seed in space.seeds]).mean
        test = {**asdict(scores[shots]), "per_seed": list(scores[shots].per_seed)}
        best.append({"shots": shots, **point._asdict(), "val": val, "test": test})
    return everything, best


def _save(found: GridResult, folder: Path | None) -> None:
    if folder is None:
        return
    about = {name: value for name, value in found.json().items() if name != "runs"}
    write_text(folder / "record.json", json.dumps(about, indent=1) + "\n")
    lines = (json.dumps(row) + "\n" for row in found.rows)
    write_text(folder / "grid.jsonl", "".join(lines))
    with (folder / "grid.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(found.rows)
