"""`cafe report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from .. import options as opt
from ..output import megabytes, note, say

if TYPE_CHECKING:
    from cafe.report.report_data import ReportData

Runs = Annotated[
    list[Path], Argument(metavar="RUN...", help="Folders of runs; of a folder of runs, the newest.")
]
ImageFolder = Annotated[
    Path | None,
    Option("--images", help="Folder of the dataset's images, for pictures of what is confused."),
]


def report(
    runs: Runs,
    output: opt.Output[Path] = Path("report.html"),
    images: ImageFolder = None,
    method: opt.HeadMethod = None,
) -> None:
    """Write runs as one HTML page that works offline, with a closer look at one head of each.

    Example: cafe report runs -o report.html
    """
    from cafe.report import write_report

    path = write_report(runs, output, images=images, method=method, on_run=_note_focus)
    size = megabytes(path)
    note(f"{size}; open it in any browser, no network is needed.")
    say(str(path))


def _note_focus(run: ReportData) -> None:
    another = "; --method picks another" if run.had_choice else ""
    note(f"{run.name}: {run.focus_in_words}{another}")
