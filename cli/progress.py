"""Progress on stderr, and what Ctrl-C means."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from .output import note


@contextmanager
def progress_bar(
    unit: str, *, interrupted: str, quiet: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar with rate and time left on a terminal, and nothing where stderr is piped.

    Ctrl-C ends the command with one line and exit code 130.

    Parameters
    ----------
    unit : str
        What is counted, for the rate: "images".
    interrupted : str
        What that line says: what is kept, or how to go on.
    quiet : bool
        Show nothing.
    """
    try:
        if quiet or not sys.stderr.isatty():
            yield lambda _stage, _done, _total: None
        else:
            with _bar(unit) as report:
                yield report
    except KeyboardInterrupt:
        note(f"\ncafe: interrupted; {interrupted}")
        raise typer.Exit(130) from None


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate)
    console = Console(stderr=True)
    with Progress(*columns, TimeLeft(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rate="")

        def report(stage: str, done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.0f} {unit}/s" if speed else ""
            bar.update(task, description=stage, completed=done, total=total, rate=rate)

        yield report
