"""Training the runs of a grid and scoring them on validation, in one call of the engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cafe.engine import Run, Score, Trained, evaluate, train
from cafe.features.splits import Shots, draw_shots, draw_validation
from cafe.features.task import Task
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import BASELINES, make_method
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.selection import folds_of, pool
from cafe.results.plan import StudyPlan
from cafe.study.grid.journal import Journal, Row
from cafe.study.grid.space import BRANCHES, Cell, Configuration, GridSpace

Progress = Callable[[str, int, int], None]
_LOT = 128  # finished runs are scored and kept in lots of this size


def plan_for(space: GridSpace, point: Configuration, shots: Sequence[Shots]) -> StudyPlan:
    """The ordinary study of one configuration, beside the baselines."""
    settings = {
        "ratio": point.ratio,
        "bottleneck": point.bottleneck,
        "recipe": replace(space.recipe, lr=point.lr),
    }
    methods = [*BASELINES, BRANCHES[space.branch]]
    return StudyPlan(methods, shots, space.seeds, space.validation, settings)


@dataclass(frozen=True)
class Job:
    """One shot count and seed: what its runs train on, and what they are scored on."""

    train: TrainingSet
    held_out: Features


def _jobs(task: Task, space: GridSpace, shots: Shots, seed: int) -> list[Job]:
    """One job, or one per fold."""
    features = task.splits["train"]
    drawn = TrainingSet(features[draw_shots(features.y, shots, seed)], task.text)
    if space.validation == "cv":
        return [Job(TrainingSet(kept, task.text), out) for kept, out in folds_of(drawn, seed)]
    stored = task.splits["val"]
    rows = draw_validation(stored.y, shots if space.validation == "few-shot" else "all", seed)
    return [Job(drawn, stored[rows])]


def train_grid(
    task: Task, space: GridSpace, journal: Journal, context: Context, progress: Progress | None
) -> None:
    """Train and score every run that has no row yet, all in one call of the engine.

    Parameters
    ----------
    task : Task
    sweep : GridSpace
    journal : Journal
        Takes a row per run as soon as its chunk is done; an interrupt keeps them.
    context : Context
    progress : callable or None
        Called with a stage, the run-epochs done and those in all.
    """
    jobs: list[Job] = []
    runs: list[Run] = []
    owners: list[Cell] = []
    for shots in space.shots:
        for seed in space.seeds:
            todo = [Cell(shots, seed, p) for p in space.points]
            todo = [cell for cell in todo if cell not in journal.rows]
            for job in _jobs(task, space, shots, seed) if todo else ():
                for cell in todo:
                    runs.append(_run(space, cell, job.train, len(jobs)))
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


def _run(space: GridSpace, cell: Cell, train_set: TrainingSet, job: int) -> Run:
    settings = plan_for(space, cell.point, [cell.shots]).settings
    method = make_method(BRANCHES[space.branch], Context(), settings)
    if not isinstance(method, ClipAdapter):
        raise TypeError(f"{method.name} is no adapter")
    return method.run_for(train_set, job, cell.seed, cell.point.ratio)


class _Scorer:
    """Scores finished runs in lots and turns each cell whose folds are complete into a row."""

    def __init__(
        self, jobs: Sequence[Job], owners: Sequence[Cell], journal: Journal, context: Context
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
