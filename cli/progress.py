"""Progress on stderr, and what Ctrl-C means."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def progress_bar(unit: str, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and time left, on a terminal; nothing where stderr is piped.

    Parameters
    ----------
    unit : str
        What is counted, for the rate: "images".
    quiet : bool
        Show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _stage, _done, _total: None
        return
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


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Turn Ctrl-C into one line that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\ncafe: interrupted; {advice}", err=True)
        raise typer.Exit(130) from None
