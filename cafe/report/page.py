"""The page: figures and data of runs put into its templates, with the plotting library in it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from cafe.errors import CafeError, counted, escape_bytes, is_utf8, raise_as
from cafe.report import figures, head_figures
from cafe.report.figures import Figure
from cafe.report.headline import headline, standing
from cafe.report.read_runs import collect
from cafe.report.report_data import ReportData
from cafe.report.telling_apart import overview, titles
from cafe.results.run_folders import check_output
from cafe.store.files import remove_left_overs, write_text
from cafe.store.key import say_items

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src {}"
)
"""What a browser lets the page do: nothing from any host, and no script but the page's own two,
which it names by their digests. Styles stay open because plotly.js writes some into the page."""


def write_report(
    runs: Sequence[Path | str],
    target: Path | str = "report.html",
    *,
    images: Path | str | None = None,
    method: str | None = None,
    on_run: Callable[[ReportData], None] | None = None,
) -> Path:
    """Write runs as one self-contained HTML page.

    Parameters
    ----------
    runs : sequence of Path or str
        Folders of runs; of a folder of runs the newest counts.
    target : Path or str
        The file to write; a page that is there is replaced.
    images : Path or str, optional
        Folder that the dataset's images lie in, for thumbnails; None tries what ships with cafe and
        `$CAFE_DATA`.
    method : str, optional
        Whose head is looked into; None takes the best of the run, at the most shots.
    on_run : callable, optional
        Called with each run, before the page is written.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If a run cannot be read.
    CafeError
        If the file cannot be written, or is there and no page.
    """
    path = Path(target)
    check_output(path, ".html", ".htm")
    data = collect(runs, None if images is None else Path(images), method)
    for run in data:
        if on_run is not None:
            on_run(run)
    text = render(data, path.parent)
    with raise_as(CafeError, f"cannot write the page to '{path}'", "choose another with --output"):
        remove_left_overs(path.parent)
        write_text(path, text)
    return path


def render(runs: Sequence[ReportData], folder: Path = Path()) -> str:
    """The page as text; links to images are relative to the folder that it will lie in."""
    by_id = {f"run{number}": run for number, run in enumerate(runs, start=1)}
    figures_by_id = {run_id: _figures(run) for run_id, run in by_id.items()}
    figure_data = [
        {"id": f"{run_id}-{name}", "run": run_id, "data": figure.data, "layout": figure.layout}
        for run_id, by_name in figures_by_id.items()
        for name, figure in by_name.items()
    ]
    scripts = [plotting_library(), _source("page.js")]
    templates = _templates()
    templates.filters["link"] = partial(_link, folder=folder)
    return templates.get_template("page.html.j2").render(
        runs=by_id,
        title=_title(runs),
        titles=dict(zip(by_id, titles(runs), strict=True)),
        overview=overview(runs),
        figures=figures_by_id,
        figure_data=figure_data,
        cell_data={run_id: run.cells for run_id, run in by_id.items()},
        scripts=scripts,
        style=_source("page.css"),
        policy=_POLICY.format(" ".join(map(_digest, scripts))),
    )


def _templates() -> Environment:
    """The templates; every value is escaped unless it is marked as safe."""
    templates = Environment(
        loader=PackageLoader("cafe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_utf8,
    )
    templates.filters["shots"] = lambda shots: counted(shots, "shot")
    templates.filters["counted"] = counted
    templates.filters["items"] = say_items
    templates.filters["ends"] = head_figures.ends
    templates.filters["headline"] = headline
    templates.filters["standing"] = standing
    templates.filters["escape_bytes"] = escape_bytes
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return templates


def _title(runs: Sequence[ReportData]) -> str:
    if len(runs) == 1:
        return headline(runs[0])
    return f"{counted(len(runs), 'run')} on {', '.join(dict.fromkeys(run.name for run in runs))}"


def _link(path: Path, folder: Path) -> str:
    """A file as a link that a page in a folder can hold: relative, so that both can move."""
    return quote(os.fsencode(os.path.relpath(path.absolute(), folder.absolute())))


def _utf8(value: Any) -> Any:
    return value if not isinstance(value, str) or is_utf8(value) else escape_bytes(value)


def _figures(run: ReportData) -> dict[str, Figure]:
    """The figures of a run by name, in the order of the page."""
    made = {"accuracy": figures.accuracy(run)}
    made |= {f"heat-{heat_map.shots}": figures.heat(heat_map) for heat_map in run.heat_maps}
    if any(gain for _, gain in run.gains):
        made["gains"] = head_figures.gains(run.gains, run.focus[0])
    if run.confusions is not None:
        made["confusions"] = head_figures.confusions(run.confusions, run.class_names)
    if run.reliability:
        made["reliability"] = head_figures.reliability(run.reliability)
    if run.analysis is not None:
        made |= head_figures.feature_maps(run.analysis, run.class_names)
    return made


def plotting_library() -> str:
    """plotly.js, as the Python package carries it."""
    from plotly.offline import get_plotlyjs

    # a browser digests a script with the newlines that its parser leaves
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n")


def _source(name: str) -> str:
    """A file beside the templates, as it is."""
    return files("cafe.report").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """A script as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
