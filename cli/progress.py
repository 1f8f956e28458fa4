"""Progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .output import shown
from .signals import on_stop


@contextmanager
def progress_bar(
    unit: str, *, interrupted: str, quiet: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar with rate and time left on a terminal, and nothing where stderr is piped.

    Ctrl-C and signals end the command with one line; see `on_stop`.

    Parameters
    ----------
    unit : str
        What is counted, for the rate: "images".
    interrupted : str
        What that line says: what is kept, or how to go on.
    quiet : bool
        Show nothing.
    """
    with on_stop(interrupted):
        if quiet or not sys.stderr.isatty():
            yield lambda _stage, _done, _total: None
        else:
            with _bar(unit) as report:
                yield report


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    rate = TextColumn("{task.fields[rate]}", markup=False)
    stage = TextColumn("{task.description}", markup=False)
    columns = (stage, BarColumn(), MofNCompleteColumn(), rate)
    console = Console(stderr=True)
    with Progress(*columns, TimeLeft(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rate="")

        def report(name: str, done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.0f} {unit}/s" if speed else ""
            description = shown(name, sys.stderr)
            bar.update(task, description=description, completed=done, total=total, rate=rate)

        yield report
