"""`cafe report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs; of a folder of runs, the newest."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the dataset's images, for pictures of what is confused."),
    ] = None,
) -> None:
    """Write runs as one HTML page that works offline.

    Example: cafe report runs -o report.html
    """
    from cafe.report import write_report

    path = write_report(runs, output, images=images)
    size = path.stat().st_size / 1e6
    say(f"{size:.1f} MB; open it in any browser, no network is needed.")
    typer.echo(str(path))
