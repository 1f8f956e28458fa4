"""Ctrl-C, and the signals of a closed terminal and of `kill`: each ends a command in one line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from .output import note

_SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "stopped by SIGTERM", "SIGHUP": "stopped by SIGHUP"}


class Stopped(BaseException):
    """A signal asked the command to stop.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.code = 128 + number  # what a shell says of a program that a signal ended
        self.how = _SIGNALS[signal.Signals(number).name]


WHOLE = "what it writes is there whole or not at all."


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise `Stopped` where a signal comes; the second ends the process at once."""
    # those that the parent wants ignored stay so: `nohup`, and jobs in the background of a script
    found = [number for name in _SIGNALS if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.getsignal(number) for number in found}
    kept = {number: old for number, old in before.items() if old != signal.SIG_IGN}
    for number in kept:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, old in kept.items():
            signal.signal(number, old)


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


@contextmanager
def on_stop(words: str) -> Iterator[None]:
    """End a command that is stopped with one line and the signal's exit code.

    Parameters
    ----------
    words : str
        What the line says: what is kept, or how to go on.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        note("", f"cafe: {stopped.how}; {words}")
        raise typer.Exit(stopped.code) from None
