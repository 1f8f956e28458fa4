"""Grids and comparisons on a Ray cluster: chunks of runs, and caches, are the calls to its workers.

Each worker opens the caches under the paths that the command has, and computes as one machine does.
What is kept on disk is kept by the command alone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from cafe.cluster import MOST_TRIES, Workers, ask_workers, has_killed, join_cluster, workers_for
from cafe.engine.chunks import budget_bytes
from cafe.errors import CacheMismatchError, CafeError, counted, escape_bytes
from cafe.features.task import Task, load_task
from cafe.methods.base import Context
from cafe.progress import Progress
from cafe.results.page import GridRow
from cafe.results.record import Record
from cafe.store import FeatureCache
from cafe.study.grid.journal import Journal
from cafe.study.grid.space import Cell, GridSpace
from cafe.study.grid.train import train_cells
from cafe.study.plan import StudyPlan

_CELLS = 32
"""Cells of a grid in a call, all of one draw: runs side by side are fast, and a kill loses few."""

_KILLED = (
    f"{MOST_TRIES} workers died of the same part of the work (out of memory?); run it with "
    "the engine 'local', or on larger machines."
)

Study = Callable[[FeatureCache, StudyPlan, Context, Progress | None], Record]


@dataclass(frozen=True)
class SharedCache:
    """A cache that all machines see under one path."""

    path: Path
    content_sha256: str

    @classmethod
    def of(cls, cache: FeatureCache) -> SharedCache:
        """The same cache, for other machines."""
        return cls(cache.path.absolute(), cache.content_sha256)

    def open(self) -> FeatureCache:
        """Open it on a worker, and refuse another than the command's."""
        cache = FeatureCache.open(self.path)
        if cache.content_sha256 != self.content_sha256:
            raise CacheMismatchError(
                f"'{self.path}' on {platform.node()} is another cache than on the machine that "
                "started the run; put the same file on all machines."
            )
        return cache


@dataclass
class _Worker(ABC):
    """Computes one row per call, in a process of its own; see `cafe.cluster.ask_workers`."""

    context: Context
    threads: int
    run: str

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        torch.set_num_threads(self.threads)
        number, own = pickle.loads(row["row"])  # noqa: S301 - the driver's own
        tries = Path(tempfile.gettempdir(), f"cafe-{self.run}-{number}.tries")
        try:
            if has_killed(tries):
                return {"found": b"", "error": pickle.dumps(CafeError(_KILLED))}
            return {"found": pickle.dumps((number, self.compute(own))), "error": b""}
        except CafeError as error:
            return {"found": b"", "error": pickle.dumps(error)}
        finally:  # a worker that dies leaves it
            tries.unlink(missing_ok=True)

    @abstractmethod
    def compute(self, row: Any) -> Any:
        """What is found for a row."""


@dataclass
class GridWorker(_Worker):
    """Trains and scores some cells of a grid."""

    shared: SharedCache
    space: GridSpace

    @cached_property  # a worker trains many chunks on one cache
    def _task(self) -> Task:
        return load_task(self.shared.open())

    def compute(self, row: Sequence[Cell]) -> list[GridRow]:
        """The rows of the cells; none where a draw leaves nothing to judge by."""
        rows: list[GridRow] = []
        train_cells(self._task, self.space, row, rows.extend, self.context, None)
        return rows


@dataclass
class StudyWorker(_Worker):
    """Compares methods on one cache."""

    study: Study

    def compute(self, row: tuple[SharedCache, StudyPlan]) -> Record:
        """The record of the cache."""
        shared, plan = row
        return self.study(shared.open(), plan, self.context, None)


def train_grid_on_ray(
    cache: FeatureCache,
    space: GridSpace,
    journal: Journal,
    context: Context,
    progress: Progress | None,
) -> None:
    """Train every run that has no row yet; see `cafe.study.grid.train.train_grid`.

    The journal takes the rows of a chunk as soon as a worker has them.

    Parameters
    ----------
    cache : FeatureCache
    space : GridSpace
    journal : Journal
    context : Context
    progress : callable or None
        A step is an epoch of one run, told after each chunk.
    """
    todo = [cell for cell in space.cells if cell not in journal.rows]
    rows = [part for each in _by_draw(todo) for part in _cut(each)]
    steps, done = space.recipe.epochs, 0
    with _ask(GridWorker, rows, context, SharedCache.of(cache), space) as answers:
        for number, found in answers:
            journal.add(found)
            done += len(rows[number])
            if progress is not None:
                progress("run-epochs", steps * done, steps * len(todo))


def compare_on_ray(
    study: Study,
    sources: Sequence[FeatureCache],
    plans: Sequence[StudyPlan],
    context: Context,
    progress: Progress | None,
) -> Generator[tuple[int, Record], None, None]:
    """The record of each cache with its place, as soon as it is there.

    Parameters
    ----------
    study : callable
        What to do with a cache and its plan.
    sources : sequence of FeatureCache
    plans : sequence of StudyPlan
        One per cache.
    context : Context
    progress : callable or None
        A step is a cache.
    """
    rows = [(SharedCache.of(source), plan) for source, plan in zip(sources, plans, strict=True)]
    with _ask(StudyWorker, rows, context, study) as answers:
        for done, (place, record) in enumerate(answers, start=1):
            source = sources[place]
            name = escape_bytes(str(source.path))
            yield place, replace(record, cache=name, opened=source)
            if progress is not None:
                progress(f"{counted(done, 'cache')} compared", done, len(rows))


@contextlib.contextmanager
def _ask(
    kind: type[_Worker], rows: Sequence[Any], context: Context, *arguments: Any
) -> Iterator[Iterator[tuple[int, Any]]]:
    """What workers find for each row, with its number; an error ends their work."""
    if not rows:
        yield iter(())
        return
    threads = torch.get_num_threads()
    with join_cluster() as ray:
        workers = workers_for(context.device.type, threads, ray.cluster_resources())
        run = secrets.token_hex(8)
        made = _on_worker(context, workers), workers.cpus, run, *arguments
        with contextlib.closing(
            ask_workers(ray, list(enumerate(rows)), workers, kind, made)
        ) as answers:
            yield (pickle.loads(answer["found"]) for answer in answers)  # noqa: S301


def _on_worker(context: Context, workers: Workers) -> Context:
    """The same context for one of several workers: its own GPU, or its part of the memory."""
    device = torch.device(context.device.type)
    memory = context.memory_budget
    if device.type == "cpu":
        beside = max(1, (os.cpu_count() or 1) // workers.cpus)
        memory = budget_bytes(device, memory) // beside
    return replace(context, device=device, memory_budget=memory, tell=None)


def _by_draw(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    for _, own in groupby(cells, key=lambda cell: (cell.shots, cell.seed)):
        yield list(own)


def _cut(cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
    return (cells[start : start + _CELLS] for start in range(0, len(cells), _CELLS))
