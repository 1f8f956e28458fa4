"""`cafe.grid`: train a whole grid as one tensor program, choose on validation, test once.

Every run of the grid is scored on validation images alone and its row is kept on disk as soon as
its chunk is done, so an interrupted grid goes on where it stopped. Per shot count the configuration
with the best mean over seeds is chosen; the ordinary study fits and tests that one. Where there is
nothing to choose by (one shot under "cv"), it is the configuration nearest to the defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cafe.cluster import Engine
from cafe.devices import resolve_precision
from cafe.features.task import Task, load_task
from cafe.methods.base import Context
from cafe.progress import Progress, log
from cafe.results.page import GridRow
from cafe.results.record import Record, make_record
from cafe.results.result import ChosenConfiguration
from cafe.results.runs import save_run
from cafe.store import FeatureCache
from cafe.store.repr_mixin import ReprMixin
from cafe.study.grid.choose import choose, mean_over_seeds, nearest_to_defaults
from cafe.study.grid.journal import Journal, journal_folder, open_journal
from cafe.study.grid.space import Cell, Configuration, GridSpace, check_space
from cafe.study.grid.train import plan_for, train_grid
from cafe.study.on_ray import train_grid_on_ray
from cafe.study.plan import check_plan, describe_protocol
from cafe.study.runner import run_study

SHARED_CHOICE = (
    "One configuration serves all seeds: it is chosen by its mean over their draws, which together "
    "hold more shots than one draw."
)
"""What the protocol says of a grid of several seeds."""


@dataclass(frozen=True, repr=False)
class GridResult(ReprMixin):
    """What a grid found.

    Attributes
    ----------
    rows : list of dict
        One per judged run: `shots`, `seed`, `ratio`, `bottleneck`, `lr`, `val` (percent),
        `val_nll`, and `test` (percent), which is None but for the chosen configurations.
    trained : int
        Runs that this sitting trained.
    record : Record
        The study of the chosen configurations and the baselines, as it was saved.
    """

    rows: list[GridRow]
    trained: int
    record: Record

    def _title(self) -> str:
        return f"{self.record._title()}: {len(self.rows):,} judged runs"

    def _rows(self) -> list[list[str]]:
        return self.record._rows()

    @property
    def best(self) -> list[dict[str, Any]]:
        """One per shot count: the configuration, its mean `val` or None, its `test` over seeds."""
        best: list[dict[str, Any]] = self.record.json["best_per_shots"]
        return best

    @property
    def seconds(self) -> float:
        """Time of the training, earlier sittings not counted."""
        return self.record.seconds or 0.0

    def json(self) -> dict[str, Any]:
        """The grid as JSON values."""
        return {**self.record.json, "runs": self.rows}


def search(
    cache: FeatureCache,
    space: GridSpace,
    context: Context | None = None,
    runs: Path = Path("runs"),
    *,
    engine: Engine = "local",
    command: str = "",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> GridResult:
    """Train every run of a grid, choose per shot count on validation, and test the chosen once.

    The arguments are those of `cafe.grid`, resolved; without a context it computes on the CPU. It
    raises what `cafe.grid` does, and InputError where one run does not fit the memory budget.
    """
    context, note = context or Context(), note or log.info
    task = load_task(cache)
    check_space(space, task.width)
    check_plan(task, plan_for(space, space.points[0], space.shots))
    precision = _precision(cache, space, context, runs)
    with open_journal(cache, space, precision, runs, note) as journal:
        context = replace(context, precision=precision)
        train = partial(_train, cache, task, space, journal, context, progress, engine)
        record, rows, trained = _search(cache, task, space, context, journal, command, train)
        record = save_run(record, runs, rows)
        journal.discard()
    return GridResult(rows, trained, record)


def _precision(
    cache: FeatureCache, space: GridSpace, context: Context, runs: Path
) -> Literal["fp32", "bf16"]:
    """Precision of the products; under "auto" an unfinished grid goes on in its own."""
    if context.precision == "auto":
        kinds: list[Literal["fp32", "bf16"]] = ["fp32", "bf16"]
        begun = [kind for kind in kinds if journal_folder(cache, space, kind, runs).is_dir()]
        if len(begun) == 1:
            return begun[0]
    return resolve_precision(context.precision, context.device)


def _train(
    cache: FeatureCache,
    task: Task,
    space: GridSpace,
    journal: Journal,
    context: Context,
    progress: Progress | None,
    engine: Engine,
) -> None:
    """Train what has no row yet, here or on a cluster."""
    if engine == "ray":
        train_grid_on_ray(cache, space, journal, context, progress)
    else:
        train_grid(task, space, journal, context, progress)


def _search(
    cache: FeatureCache,
    task: Task,
    space: GridSpace,
    context: Context,
    journal: Journal,
    command: str,
    train: Callable[[], None],
) -> tuple[Record, list[GridRow], int]:
    """The record, the row of every run, and how many were trained now."""
    start, before = time.perf_counter(), len(journal.rows)
    train()
    seconds, trained = time.perf_counter() - start, len(journal.rows) - before
    judged = {cell.shots for cell in journal.rows}
    chosen = {
        shots: choose(journal.rows, space, shots) or nearest_to_defaults(space, task.width)
        for shots in space.shots
    }
    tested = {
        shots: run_study(task, plan_for(space, point, [shots]), context=context)
        for shots, point in chosen.items()
    }
    best = tuple(
        ChosenConfiguration(
            shots,
            *point,
            val=mean_over_seeds("val", journal.rows, space, shots, point)
            if shots in judged
            else None,
            test=tested[shots][-1].accuracy,  # the adapter stands behind the baselines
        )
        for shots, point in chosen.items()
    )
    plan = plan_for(space, chosen[space.shots[-1]], space.shots)
    notes = [SHARED_CHOICE] if judged and len(space.seeds) > 1 else []
    if judged < set(chosen):
        notes.append("The grid took its configuration nearest to them.")
    results = [result for part in tested.values() for result in part]
    record = make_record(
        cache,
        describe_protocol(task, plan, notes),
        results,
        command,
        precision=context.products,
        best=best[-1],
        best_per_shots=best,
        seconds=seconds,
        runs_per_second=trained / seconds if seconds else 0.0,
    )
    return record, _with_tests(journal.rows, space, best), trained


def _with_tests(
    rows: Mapping[Cell, GridRow], space: GridSpace, best: Sequence[ChosenConfiguration]
) -> list[GridRow]:
    """All rows in the order of the grid, the chosen ones with their test accuracy."""
    tests: dict[Cell, float] = {}
    for choice in best:
        point = Configuration(choice.ratio, choice.bottleneck, choice.lr)
        cells = [Cell(choice.shots, seed, point) for seed in space.seeds]
        tests |= zip(cells, choice.test.per_seed, strict=True)
    return [{**rows[cell], "test": tests.get(cell)} for cell in space.cells if cell in rows]
