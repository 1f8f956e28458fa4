"""`cafe.grid`: train a whole grid as one tensor program, choose on validation, test once.

Every run of the grid is scored on validation images alone and its row is kept on disk as soon as
its chunk is done, so an interrupted grid goes on where it stopped. Per shot count the configuration
with the best mean over seeds is chosen; the ordinary study fits and tests that one. Where there is
nothing to choose by (one shot under "cv"), it is the configuration nearest to the defaults.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cafe.features.splits import Shots
from cafe.features.task import Task, load_task
from cafe.files import write_text
from cafe.methods.base import Context
from cafe.methods.checks import parse_bottleneck
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.validation import pick_best
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
        One per judged run: `shots`, `seed`, `ratio`, `bottleneck`, `lr`, `val` (percent),
        `val_nll`, and `test` (percent), which is None but for the chosen configurations.
    best : list of dict
        One per shot count: the chosen configuration, its mean `val` (None where there was nothing
        to choose by), and its `test` over seeds.
    seconds : float
        Time of the grid's training, earlier sittings not counted.
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
    """Train every run of a grid, choose per shot count on validation, and test the chosen once.

    Parameters
    ----------
    cache : FeatureCache
    space : GridSpace
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
        If the grid does not fit the cache or one run does not fit the memory budget.
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
    chosen = {
        shots: choose(journal.rows, space, shots) or nearest_to_defaults(space, task.width)
        for shots in space.shots
    }
    results = _test(task, space, chosen, context)
    plan = plan_for(space, chosen[space.shots[-1]], space.shots)
    words, sure = protocol_in_words(task, plan), calibrate(cache, plan, results)
    if {cell.shots for cell in journal.rows} < set(space.shots):
        words += " The grid took its configuration nearest to them."
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


def choose(rows: Mapping[Cell, Row], space: GridSpace, shots: Shots) -> Configuration | None:
    """The configuration that does best on average over seeds; None where no run was judged.

    Of equals it is the one with the smaller ratio; see `cafe.methods.validation.pick_best`.
    """
    points = sorted(space.points, key=lambda point: point.ratio)
    if Cell(shots, space.seeds[0], points[0]) not in rows:
        return None
    accuracies, losses = (
        [_mean(name, rows, space, shots, point) for point in points] for name in ("val", "val_nll")
    )
    return points[pick_best(accuracies, losses)]


def _mean(
    name: str, rows: Mapping[Cell, Row], space: GridSpace, shots: Shots, point: Configuration
) -> float:
    """Mean over seeds of a value of a configuration's rows."""
    values: list[float] = [rows[Cell(shots, seed, point)][name] for seed in space.seeds]
    return sum(values) / len(values)


def nearest_to_defaults(space: GridSpace, width: int) -> Configuration:
    """The configuration nearest to CLIP-Adapter's defaults: in ratio, then in width, then in rate.

    Parameters
    ----------
    space : GridSpace
    width : int
        Feature width D.
    """
    default = ClipAdapter()
    hidden = parse_bottleneck(default.bottleneck, width)
    return min(
        space.points,
        key=lambda point: (
            abs(point.ratio - default.ratio),
            abs(parse_bottleneck(point.bottleneck, width) - hidden),
            abs(point.lr - default.recipe.lr),
        ),
    )


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
        if cell not in rows:
            continue
        row = dict(rows[cell])
        if chosen[cell.shots] == cell.point:
            row["test"] = scores[cell.shots].per_seed[list(space.seeds).index(cell.seed)]
        everything.append(row)
    best = []
    for shots, point in chosen.items():
        judged = Cell(shots, space.seeds[0], point) in rows
        val = _mean("val", rows, space, shots, point) if judged else None
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
