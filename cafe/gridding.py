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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cafe.engine import Run, Score, Trained, evaluate, train
from cafe.errors import CafeError
from cafe.features import Features, Task, TrainingSet, load_task
from cafe.methods.base import Context
from cafe.methods.catalog import BASELINES, make_method
from cafe.methods.clip_adapter import ClipAdapter
from cafe.methods.selection import folds_of, pool
from cafe.metrics import summarize
from cafe.results import Record, make_record, save_run
from cafe.splits import Shots, draw_shots, draw_validation
from cafe.store import FeatureCache
from cafe.study import Plan, Result, check_plan, protocol_in_words, run
from cafe.sweep import BRANCHES, Cell, Point, Sweep, check_sweep
from cafe.temperature import calibrate

Progress = Callable[[str, int, int], None]
Row = dict[str, Any]
FIELDS = ("shots", "seed", "ratio", "bottleneck", "lr", "val", "val_nll", "test")
_LOT = 128  # finished runs are scored and kept in lots of this size


class Journal:
    """Rows of finished runs in a JSONL file, so that an interrupted grid goes on.

    Parameters
    ----------
    path : Path
        The file; rows that are there are read, a torn last line is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[Cell, Row] = {}
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                if line.endswith("}"):
                    self._take(json.loads(line))
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))
        except OSError as error:
            raise CafeError(
                f"cannot keep finished runs in '{path.parent}' ({error.strerror}); choose another "
                "folder with --runs."
            ) from error

    def _take(self, row: Row) -> None:
        point = Point(row["ratio"], row["bottleneck"], row["lr"])
        self.rows[Cell(row["shots"], row["seed"], point)] = row

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows; they are on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row) + "\n")
                self._take(row)


@dataclass(frozen=True)
class Grid:
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
    sweep: Sweep,
    *,
    context: Context | None = None,
    runs: Path = Path("runs"),
    command: str = "",
    progress: Progress | None = None,
) -> Grid:
    """Train every run of a sweep, choose per shot count on validation, and test the chosen once.

    Parameters
    ----------
    cache : FeatureCache
    sweep : Sweep
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
    Grid

    Raises
    ------
    InputError
        If the sweep does not fit the cache or one run does not fit the memory budget.
    """
    context = context or Context()
    task = load_task(cache)
    check_sweep(sweep, task.width)
    check_plan(task, _plan(sweep, sweep.points[0], sweep.shots))
    waiting = runs / f".grid-{_digest(cache, sweep)}"
    journal = Journal(waiting / "rows.jsonl")
    start, before = time.perf_counter(), len(journal.rows)
    _sweep(task, sweep, journal, context, progress)
    seconds = time.perf_counter() - start
    chosen = {shots: choose(journal.rows, shots) for shots in sweep.shots}
    results = _test(task, sweep, chosen, context)
    plan = _plan(sweep, chosen[sweep.shots[-1]], sweep.shots)
    words, sure = protocol_in_words(task, plan), calibrate(cache, plan, results)
    record = make_record(cache, plan, words, results, command, sure)
    record = save_run(record, runs)
    rows, best = _tested(journal.rows, chosen, results, sweep)
    found = Grid(rows, best, seconds, len(journal.rows) - before, record)
    _save(found, record.folder)
    shutil.rmtree(waiting, ignore_errors=True)
    return found


def _digest(cache: FeatureCache, sweep: Sweep) -> str:
    """Names the sweep, so that the same command finds its own rows and no others."""
    values = {"key": dict(cache.header.key), **asdict(sweep)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _plan(sweep: Sweep, point: Point, shots: Sequence[Shots]) -> Plan:
    """The ordinary study of one configuration, beside the baselines."""
    settings = {
        "ratio": point.ratio,
        "bottleneck": point.bottleneck,
        "recipe": replace(sweep.recipe, lr=point.lr),
    }
    methods = [*BASELINES, BRANCHES[sweep.branch]]
    return Plan(methods, shots, sweep.seeds, sweep.validation, settings)


@dataclass(frozen=True)
class _Job:
    """One shot count and seed: what its runs train on, and what they are scored on."""

    train: TrainingSet
    held_out: Features


def _jobs(task: Task, sweep: Sweep, shots: Shots, seed: int) -> list[_Job]:
    """One job, or one per fold."""
    features = task.splits["train"]
    drawn = TrainingSet(features[draw_shots(features.y, shots, seed)], task.text)
    if sweep.validation == "cv":
        return [_Job(TrainingSet(kept, task.text), out) for kept, out in folds_of(drawn, seed)]
    held_out = task.splits["val"]
    if sweep.validation == "few-shot":
        held_out = held_out[draw_validation(held_out.y, shots, seed)]
    return [_Job(drawn, held_out)]


def _sweep(
    task: Task, sweep: Sweep, journal: Journal, context: Context, progress: Progress | None
) -> None:
    """Train and score every run that has no row yet, all in one call of the engine."""
    jobs: list[_Job] = []
    runs: list[Run] = []
    owners: list[Cell] = []
    for shots in sweep.shots:
        for seed in sweep.seeds:
            todo = [Cell(shots, seed, p) for p in sweep.points]
            todo = [cell for cell in todo if cell not in journal.rows]
            for job in _jobs(task, sweep, shots, seed) if todo else ():
                for cell in todo:
                    runs.append(_run(sweep, cell, job.train, len(jobs)))
                    owners.append(cell)
                jobs.append(job)
    scorer = _Scorer(jobs, owners, journal, context)
    try:
        train(
            runs,
            [_to(job.train, context) for job in jobs],
            device=context.device,
            precision=context.precision,
            memory_budget=context.memory_budget,
            progress=progress and (lambda done, total: progress("run-epochs", done, total)),
            on_finished=scorer.take,
        )
    finally:  # an interrupt keeps what is done
        scorer.flush()


def _to(train_set: TrainingSet, context: Context) -> TrainingSet:
    return TrainingSet(train_set.features.to(context.device), train_set.text.to(context.device))


def _run(sweep: Sweep, cell: Cell, train_set: TrainingSet, job: int) -> Run:
    settings = _plan(sweep, cell.point, [cell.shots]).settings
    method = make_method(BRANCHES[sweep.branch], Context(), settings)
    if not isinstance(method, ClipAdapter):
        raise TypeError(f"{method.name} is no adapter")
    return method.run_for(train_set, job, cell.seed, cell.point.ratio)


class _Scorer:
    """Scores finished runs in lots and turns each cell whose folds are complete into a row."""

    def __init__(
        self, jobs: Sequence[_Job], owners: Sequence[Cell], journal: Journal, context: Context
    ) -> None:
        self._jobs, self._owners, self._journal, self._context = jobs, owners, journal, context
        self._folds = Counter(owners)
        self._waiting: list[tuple[int, Trained]] = []
        self._scores: dict[Cell, list[tuple[int, Score]]] = defaultdict(list)

    def take(self, index: int, trained: Trained) -> None:
        """Take a finished run."""
        self._waiting.append((index, trained))
        if len(self._waiting) >= _LOT:
            self.flush()

    def flush(self) -> None:
        """Score what waits and keep the rows that are complete."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        numbers = sorted({one.run.data for _, one in waiting})
        scores = evaluate(
            [one for _, one in waiting],
            [_to(job.train, self._context) for job in self._jobs],
            [self._jobs[number].held_out.to(self._context.device) for number in numbers],
            [numbers.index(one.run.data) for _, one in waiting],
            memory_budget=self._context.memory_budget,
        )
        rows = []
        for (index, one), score in zip(waiting, scores, strict=True):
            cell = self._owners[index]
            found = self._scores[cell]
            found.append((len(self._jobs[one.run.data].held_out), score))
            if len(found) == self._folds[cell]:
                rows.append(_row(cell, pool([s for _, s in found], [n for n, _ in found])))
        self._journal.add(rows)


def _row(cell: Cell, score: Score) -> Row:
    val, nll = 100 * score.accuracy, score.nll
    shots, seed, point = cell
    return {
        "shots": shots,
        "seed": seed,
        **point._asdict(),
        "val": val,
        "val_nll": nll,
        "test": None,
    }


def choose(rows: Mapping[Cell, Row], shots: Shots) -> Point:
    """The configuration with the best mean validation accuracy over seeds.

    Of equals the one with the lower negative log-likelihood, then the smaller ratio.
    """
    found: dict[Point, list[Row]] = defaultdict(list)
    for cell, row in rows.items():
        if cell.shots == shots:
            found[cell.point].append(row)

    def rank(point: Point) -> tuple[float, float, float]:
        mine = found[point]
        accuracy = sum(row["val"] for row in mine) / len(mine)
        return -round(accuracy, 9), sum(row["val_nll"] for row in mine) / len(mine), point.ratio

    return min(found, key=rank)


def _test(
    task: Task, sweep: Sweep, chosen: Mapping[Shots, Point], context: Context
) -> list[Result]:
    results: list[Result] = []
    for shots, point in chosen.items():
        results += run(task, _plan(sweep, point, [shots]), context=context)
    return results


def _tested(
    rows: Mapping[Cell, Row],
    chosen: Mapping[Shots, Point],
    results: Sequence[Result],
    sweep: Sweep,
) -> tuple[list[Row], list[Row]]:
    """All rows, the chosen ones with their test accuracy; and the chosen, one per shot count."""
    scores = {r.shots: r.accuracy for r in results if r.method == BRANCHES[sweep.branch]}
    everything = []
    for cell in sweep.cells:
        row = dict(rows[cell])
        if chosen[cell.shots] == cell.point:
            row["test"] = scores[cell.shots].per_seed[list(sweep.seeds).index(cell.seed)]
        everything.append(row)
    best = []
    for shots, point in chosen.items():
        val = summarize([rows[Cell(shots, seed, point)]["val"] for seed in sweep.seeds]).mean
        test = {**asdict(scores[shots]), "per_seed": list(scores[shots].per_seed)}
        best.append({"shots": shots, **point._asdict(), "val": val, "test": test})
    return everything, best


def _save(found: Grid, folder: Path | None) -> None:
    if folder is None:
        return
    about = {name: value for name, value in found.json().items() if name != "runs"}
    (folder / "record.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    lines = (json.dumps(row) + "\n" for row in found.rows)
    (folder / "grid.jsonl").write_text("".join(lines), encoding="utf-8")
    with (folder / "grid.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(found.rows)
