"""Processes that decode images; they load neither PyTorch nor open_clip, and start in a second."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from cafe.errors import CafeError
from cafe.progress import log


def decoding_processes(count: int) -> Executor | None:
    """Start processes for `cafe.extract.decode.map_ahead`; None where the system has none to give.

    Unlike those of the standard library they do not run the user's script again, so that a script
    needs no `if __name__ == "__main__"`.
    """
    from loky import ProcessPoolExecutor

    begin = {"initializer": _begin, "initargs": (os.getpid(),)}
    try:
        processes: Executor = ProcessPoolExecutor(count, env={"OMP_NUM_THREADS": "1"}, **begin)
        processes.submit(int)  # with the first work they are started
    except (ImportError, OSError) as error:  # no semaphores, or no more processes
        log.warning("images are decoded in threads, since processes cannot be started (%s).", error)
        return None
    return processes


def _begin(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that reads the images
    from cafe.encoders.preprocess import ignore_warnings_of_pillow

    ignore_warnings_of_pillow()


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it, also where that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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
