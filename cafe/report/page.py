"""The page: sections of a run put together, with styles, data and the plotting library in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from cafe.errors import CafeError
from cafe.files import write_text
from cafe.report.report_data import ReportData, collect
from cafe.report.sections import Page, name_of, section, title_of

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page do: nothing from any host."""


def write_report(
    runs: Sequence[Path | str],
    target: Path | str = "report.html",
    *,
    images: Path | str | None = None,
) -> Path:
    """Write runs as one self-contained HTML page.

    Parameters
    ----------
    runs : sequence of Path or str
        Folders of runs; of a folder of runs the newest counts.
    target : Path or str
        The file to write; one that is there is replaced.
    images : Path or str, optional
        Folder that the dataset's images lie in, for thumbnails; None tries what ships with cafe and
        `$CAFE_DATA`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If a run cannot be read.
    CafeError
        If the file cannot be written.
    """
    text = render(collect(runs, None if images is None else Path(images)))
    path = Path(target)
    try:
        write_text(path, text)
    except OSError as error:
        raise CafeError(
            f"cannot write the page to '{path}' ({error.strerror}); choose another with --output."
        ) from error
    return path


def render(runs: Sequence[ReportData]) -> str:
    """The page as text."""
    page = Page()
    sections = [section(page, run, f"run{number}") for number, run in enumerate(runs, start=1)]
    datasets = ", ".join(dict.fromkeys(name_of(run) for run in runs))
    title = f"cafe report: {datasets}"
    links = "".join(
        f'<li><a href="#run{number}">{escape(title_of(run))}</a></li>'
        for number, run in enumerate(runs, start=1)
    )
    here = files("cafe.report")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{here.joinpath('page.css').read_text(encoding='utf-8')}</style></head><body>",
            '<a class="skip" href="#main">Skip to the results</a>',
            f"<header><h1>{escape(datasets)}</h1>"
            '<p class="lead">Few-shot heads on cached CLIP features, compared by cafe.</p>',
            f'<nav aria-label="Runs"><ul>{links}</ul></nav></header>'
            if len(runs) > 1
            else "</header>",
            "<noscript><main><p>Figures need JavaScript; every number is in the tables.</p></main>"
            "</noscript>",
            f'<main id="main">{"".join(sections)}</main>',
            "<footer>Written by cafe. This file holds all that it shows and asks no host for "
            "anything.</footer>",
            _data("figures", page.figures),
            _data("cells", page.cells),
            f"<script>{plotting_library()}</script>",
            f"<script>{here.joinpath('page.js').read_text(encoding='utf-8')}</script>",
            "</body></html>\n",
        ]
    )


def plotting_library() -> str:
    """plotly.js, as the Python package carries it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _data(name: str, value: Any) -> str:
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
