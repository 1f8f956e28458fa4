"""Several jobs at a time, each in a thread of its own; knows nothing of what a job does."""

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

Tell = Callable[[int], None]
"""Takes how much more is done."""


class _StoppedError(Exception):
    """Unwinds a job that is not wanted any more."""


def work_off(
    jobs: Sequence[Callable[[Tell], _T]],
    workers: int,
    *,
    on_progress: Tell,
    on_result: Callable[[_T], None],
) -> None:
    """Do jobs, some at a time; an exception or an interrupt stops them all and is raised.

    Two workers of one torch thread beat one of two: torch's own threads meet after every operation,
    and where another process holds a core each meeting waits for it (measured on two busy cores:
    10 times slower and more).

    Parameters
    ----------
    jobs : sequence of callable
        Each takes a callable to tell its progress by, and returns its result.
    workers : int
        Jobs at a time. With more than one, each has one torch thread.
    on_progress, on_result : callable
        Called in the caller's thread with what a job tells, and with its result as it ends.
    """
    waiting = deque(jobs)
    events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    stop = threading.Event()

    def tell(count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        events.put(partial(on_progress, count))

    def work() -> None:
        try:
            while waiting and not stop.is_set():
                events.put(partial(on_result, waiting.popleft()(tell)))
        except _StoppedError:
            pass
        except BaseException as error:  # raised again in the caller's thread
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
    """Run events as they come, until every worker has said that it is done."""
    while workers:
        event = events.get()
        if event is None:
            workers -= 1
        else:
            event()


def _throw(error: BaseException) -> None:
    raise error
