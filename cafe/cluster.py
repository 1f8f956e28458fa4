"""Calls to workers on a Ray cluster; the only module that imports ray, and knows no task.

A worker is made once in a process of its own, and answers one pickled row per call. Ray starts
another where one dies, and sends the row again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cafe.errors import CafeError, DeviceError, InputError, how_to_install

Engine = Literal["local", "ray"]
"""Where work is done: in this process, or by the workers of a Ray cluster."""

MOST_TRIES = 4
"""Workers that a row may kill: more are no accident, and Ray would try it without end."""

_MOST_THREADS = 16


def check_engine(engine: str) -> None:
    """Refuse an unknown engine."""
    if engine not in ("local", "ray"):
        raise InputError(f"unknown engine '{engine}'; use local or ray.")


class Workers(NamedTuple):
    """How many workers a cluster has room for, what each of them takes, and its threads."""

    number: int
    cpus: int
    gpus: int
    decoders: int


def workers_for(device: str, threads: int, resources: Mapping[str, float]) -> Workers:
    """One worker per GPU, or on CPUs one per as many cores as the driver's PyTorch uses."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if device == "cpu":
        cores = max(1, min(threads, cpus))
        return Workers(max(1, cpus // cores), cores, 0, cores)
    if not gpus:
        raise DeviceError("the Ray cluster has no GPU; use device='cpu', or add machines with one.")
    return Workers(gpus, 1, 1, max(1, min(cpus // gpus, _MOST_THREADS)))


def ask_workers(
    ray: Any, rows: Sequence[Any], workers: Workers, kind: type, arguments: tuple[Any, ...]
) -> Generator[dict[str, Any], None, None]:
    """What workers `kind(*arguments)` answer for each row, in any order.

    A worker takes `{"row": pickled row}` and answers with a dict. What it finds wrong it puts there
    as a pickled `CafeError`, under "error": if it raised, Ray would wrap it, or start it again.

    Raises
    ------
    CafeError
        What a worker found wrong; also if the cluster is lost.
    """
    pickled = [{"row": pickle.dumps(row)} for row in rows]
    # one row in each of Ray's own blocks, so that a lost worker loses one row
    answers = ray.data.from_items(pickled, override_num_blocks=len(pickled)).map(
        kind,
        fn_constructor_args=arguments,
        concurrency=min(workers.number, len(pickled)),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    try:
        for answer in answers.iter_rows():
            if answer["error"]:
                raise pickle.loads(answer["error"])  # noqa: S301 - a worker's own
            yield answer
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # a bug in cafe: keep its traceback
        raise CafeError(
            f"the cluster lost its workers ({type(error).__name__}); run the same command again: "
            "finished work is kept."
        ) from error


def has_killed(file: Path) -> bool:
    """Count in a file a further try at a row; whether `MOST_TRIES` workers died of it before."""
    with file.open("ab") as stream:
        stream.write(b".")
    return file.stat().st_size > MOST_TRIES


@contextlib.contextmanager
def join_cluster() -> Iterator[Any]:
    """Ray, connected to a cluster; the connection is closed if it was opened here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(
            f"the engine 'ray' needs Ray, which is not installed: {how_to_install('ray')}."
        ) from error
    context = data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows the progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    opened = not ray.is_initialized()
    if opened:
        _join(ray)
    try:
        yield ray
    finally:
        if opened:
            ray.shutdown()


def _join(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init("auto", **quiet)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise CafeError(
                f"no Ray cluster answers at '{address}', which RAY_ADDRESS names; start it, or "
                "unset the variable."
            ) from error
        # a cluster of this machine only: it listens on loopback and serves no dashboard
        ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
