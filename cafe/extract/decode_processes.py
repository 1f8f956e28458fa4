"""Processes that decode images; imports no more than they need to start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from cafe.compat import import_torchvision
from cafe.errors import CafeError

_IDLE = 60
"""Seconds after which a process without work ends: that of a program that was killed, too."""


def decoding_processes(count: int) -> Executor:
    """Start processes for `cafe.extract.decode.map_ahead`.

    Unlike those of the standard library they do not run the user's script again, so that a script
    needs no `if __name__ == "__main__"`.
    """
    from loky import ProcessPoolExecutor

    one_thread = {"OMP_NUM_THREADS": "1"}
    processes: Executor = ProcessPoolExecutor(
        count, timeout=_IDLE, initializer=_begin, env=one_thread
    )
    return processes


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that reads the images
    import_torchvision()  # before images' steps are unpickled: see there


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Say in one line that the system ended a process.

    Raises
    ------
    CafeError
        Where one was.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise CafeError(
            "a process that decodes images was ended from outside (out of memory?); run the same "
            "command again with fewer workers: finished work is kept."
        ) from error
