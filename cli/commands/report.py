"""`cafe report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from .. import completion
from .. import options as opt
from ..output import megabytes, note, say

if TYPE_CHECKING:
    from cafe.report.report_data import ReportData

Names = Annotated[
    list[str] | None,
    Argument(
        metavar="[RUN]...",
        help="Folders of runs, or names in --runs; of a folder of runs, the newest "
        "[default: the newest].",
        autocompletion=completion.runs,
    ),
]
Method = Annotated[
    str | None,
    Option(
        "--method",
        help="Look into this method's head [default: the best of the run].",
        autocompletion=completion.methods,
    ),
]
ImageFolder = Annotated[
    Path | None,
    Option("--images", help="Folder of the dataset's images, for pictures of what is confused."),
]


def report(
    names: Names = None,
    output: opt.Output[Path] = Path("report.html"),
    images: ImageFolder = None,
    method: Method = None,
    runs: opt.RunsHome = Path("runs"),
) -> None:
    """Write runs as one HTML page that works offline. It names the best method and its confusions.

    Example: cafe report -o report.html
    """
    from cafe.report import write_report

    folders = [runs] if not names else [_folder(runs, name) for name in names]
    path = write_report(folders, output, images=images, method=method, on_run=_note_focus)
    size = megabytes(path)
    note(f"{size}; open it in any browser, no network is needed.")
    say(str(path))


def _folder(runs: Path, name: str) -> Path:
    """What is there by this name, else the run of this name."""
    from cafe.results.run_folders import locate_run

    return Path(name) if Path(name).exists() else locate_run(runs, name)


def _note_focus(run: ReportData) -> None:
    another = "; --method picks another" if run.had_choice else ""
    note(f"{run.name}: {run.focus_in_words}{another}")
