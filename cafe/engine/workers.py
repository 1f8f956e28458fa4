"""Jobs in threads, several at a time; knows nothing of what a job does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import torch

from cafe.devices import torch_threads

_T = TypeVar("_T")

Report = Callable[[int], None]
"""Takes how much more is done."""


class _StoppedError(Exception):
    """Ends a job whose result is no longer wanted."""


def run_jobs(
    jobs: Sequence[Callable[[Report], _T]],
    workers: int,
    *,
    on_progress: Report,
    on_result: Callable[[_T], None],
) -> None:
    """Run jobs, some at a time; an exception or an interrupt stops them all and is raised.

    Two workers of one torch thread each are faster than one worker of two: torch's own threads wait
    for each other after every operation, and where another process holds a core each wait is long
    (measured on two busy cores: 10 times slower and more).

    Parameters
    ----------
    jobs : sequence of callable
        Each takes a callable to report its progress to, and returns its result.
    workers : int
        Jobs at a time. With more than one, each has one torch thread.
    on_progress, on_result : callable
        Called in the caller's thread with what a job reports, and with its result.
    """
    # what workers have to say: a call to make in the caller's thread, or a job that has ended
    events: SimpleQueue[Callable[[], None] | Future[_T]] = SimpleQueue()
    stop = threading.Event()

    def report(count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        events.put(partial(on_progress, count))

    threads = 1 if workers > 1 else torch.get_num_threads()
    with torch_threads(threads), ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                pool.submit(job, report).add_done_callback(events.put)
            running = len(jobs)
            while running:
                event = events.get()
                if isinstance(event, Future):
                    on_result(event.result())  # raises what the job raised
                    running -= 1
                else:
                    event()
        finally:  # the pool waits for jobs that run: they stop at their next report
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
