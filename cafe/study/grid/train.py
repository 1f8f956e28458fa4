"""Training the runs of a grid and scoring them on validation, some hundred side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import cast

from cafe.engine import Run, Score, Trained, evaluate, train
from cafe.features.splits import Shots, draw_shots
from cafe.features.task import Task
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.catalog import BASELINES, make_method
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.validation import Fold, folds_for, mean_score
from cafe.progress import Progress
from cafe.results.page import GridRow
from cafe.study.grid.journal import Journal
from cafe.study.grid.space import BRANCHES, Cell, Configuration, GridSpace
from cafe.study.plan import StudyPlan
from cafe.study.runner import validation_for

_CELLS = 512
"""Cells that are trained in one call, which is what a kill may lose under "cv": the engine trains
one fold after the other, and a cell has its row when all of its folds are judged."""

_LOT = 128  # finished runs are scored and kept in so many at a time


def plan_for(space: GridSpace, point: Configuration, shots: Sequence[Shots]) -> StudyPlan:
    """The ordinary study of one configuration, beside the baselines."""
    settings = {
        "ratio": point.ratio,
        "bottleneck": point.bottleneck,
        "recipe": replace(space.recipe, lr=point.lr),
    }
    methods = [*BASELINES, BRANCHES[space.branch]]
    return StudyPlan(methods, shots, space.seeds, space.validation, settings)


def _folds(task: Task, space: GridSpace, shots: Shots, seed: int) -> list[Fold]:
    """Where the runs of one shot count and seed train, and where they are judged."""
    features = task.splits["train"]
    drawn = TrainingSet(features[draw_shots(features.y, shots, seed)], task.text)
    return folds_for(Job(drawn, validation_for(task, space.validation, shots, seed), seed))


def train_grid(
    task: Task, space: GridSpace, journal: Journal, context: Context, progress: Progress | None
) -> None:
    """Train and score every run that has no row yet, lot by lot.

    Where a shot count leaves nothing to judge by (one shot under "cv"), nothing is trained.

    Parameters
    ----------
    task : Task
    space : GridSpace
    journal : Journal
        Takes a row per run; an interrupt keeps them.
    context : Context
    progress : callable or None
        See `cafe.progress.Progress`; a step is an epoch of one run.
    """
    todo = [cell for cell in space.cells if cell not in journal.rows]
    train_cells(task, space, todo, journal.add, context, progress)


def train_cells(
    task: Task,
    space: GridSpace,
    todo: Sequence[Cell],
    keep: Callable[[Sequence[GridRow]], None],
    context: Context,
    progress: Progress | None,
) -> None:
    """Train and score some runs, and give `keep` their rows as soon as they are there."""
    draws = dict.fromkeys((cell.shots, cell.seed) for cell in todo)
    folds = {draw: _folds(task, space, *draw) for draw in draws}
    cells = [cell for cell in todo if folds[cell.shots, cell.seed]]
    total = space.recipe.epochs * sum(len(folds[cell.shots, cell.seed]) for cell in cells)
    done = 0
    for lot in (cells[start : start + _CELLS] for start in range(0, len(cells), _CELLS)):

        def tell(count: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress("run-epochs", before + count, total)

        done += _train_lot(lot, folds, space, keep, replace(context, tell=tell))


def _train_lot(
    lot: Sequence[Cell],
    folds: Mapping[tuple[Shots, int], Sequence[Fold]],
    space: GridSpace,
    keep: Callable[[Sequence[GridRow]], None],
    context: Context,
) -> int:
    """Train some cells on all of their folds, in one call of the engine; gives their run-epochs."""
    flat: list[Fold] = []
    runs: list[Run] = []
    cells: list[Cell] = []  # of each run
    for draw, own in groupby(lot, key=lambda cell: (cell.shots, cell.seed)):
        points = list(own)
        for fold in folds[draw]:
            runs += [_run(space, cell, fold.train, len(flat)) for cell in points]
            cells += points
            flat.append(fold)
    scorer = _Scorer(flat, cells, keep, context)
    try:
        train(
            runs,
            [fold.train.to(context.device) for fold in flat],
            device=context.device,
            precision=context.precision,
            memory_budget=context.memory_budget,
            progress=context.tell,
            on_finished=scorer.take,
            keep=False,
        )
    finally:  # an interrupt keeps what is done
        scorer.flush()
    return space.recipe.epochs * len(runs)


def _run(space: GridSpace, cell: Cell, train_set: TrainingSet, fold: int) -> Run:
    settings = plan_for(space, cell.point, [cell.shots]).settings
    # every branch is a kind of CLIP-Adapter
    method = cast("ClipAdapter", make_method(BRANCHES[space.branch], Context(), settings))
    return method.run_for(train_set, fold, cell.seed, cell.point.ratio)


class _Scorer:
    """Scores finished runs in lots and turns each cell whose folds are complete into a row."""

    def __init__(
        self,
        folds: Sequence[Fold],
        cells: Sequence[Cell],
        keep: Callable[[Sequence[GridRow]], None],
        context: Context,
    ) -> None:
        self._folds, self._cells, self._keep, self._context = folds, cells, keep, context
        self._runs_of = Counter(cells)
        self._waiting: list[tuple[int, Trained]] = []
        self._scores: dict[Cell, list[tuple[Fold, Score]]] = defaultdict(list)

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
        numbers = sorted({trained.run.data for _, trained in waiting})
        scores = evaluate(
            [trained for _, trained in waiting],
            [fold.train.to(self._context.device) for fold in self._folds],
            [self._folds[number].held_out.to(self._context.device) for number in numbers],
            [numbers.index(trained.run.data) for _, trained in waiting],
            memory_budget=self._context.memory_budget,
        )
        rows = []
        for (index, trained), score in zip(waiting, scores, strict=True):
            cell = self._cells[index]
            judged = self._scores[cell]
            judged.append((self._folds[trained.run.data], score))
            if len(judged) == self._runs_of[cell]:
                rows.append(_row(cell, mean_score([s for _, s in judged], [f for f, _ in judged])))
        self._keep(rows)


def _row(cell: Cell, score: Score) -> GridRow:
    return {
        "shots": cell.shots,
        "seed": cell.seed,
        "ratio": cell.point.ratio,
        "bottleneck": cell.point.bottleneck,
        "lr": cell.point.lr,
        "val": 100 * score.accuracy,
        "val_nll": score.nll,
        "test": None,
    }
