"""Jobs in threads, several at a time; knows nothing of what a job does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
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
    waiting = deque(jobs)
    events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    stop = threading.Event()

    def report(count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        events.put(partial(on_progress, count))

    def work() -> None:
        try:
            while waiting and not stop.is_set():
                job = waiting.popleft()
                events.put(partial(on_result, job(report)))
        except _StoppedError:
            pass
        except BaseException as error:  # any: the caller would wait for ever otherwise
            events.put(partial(_throw, error))
        finally:
            events.put(None)

    with torch_threads(1 if workers > 1 else torch.get_num_threads()):
        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            _handle(events, workers)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _handle(events: SimpleQueue[Callable[[], None] | None], workers: int) -> None:
    """Call what the workers send, until each has sent None: it has no more jobs."""
    while workers:
        event = events.get()
        if event is None:
            workers -= 1
        else:
            event()


def _throw(error: BaseException) -> None:
    raise error
