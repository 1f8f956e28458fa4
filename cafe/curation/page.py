"""A check as one page of HTML that works offline: pictures in it, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cafe.curation.findings import Check, Finding, Labelled
from cafe.datasets.thumbnails import thumbnails_from_folder
from cafe.errors import CafeError, raise_as, visible
from cafe.store.files import write_text

_MOST = 100
"""Images of a kind that are shown; all are in `suggestions.csv`."""


def write_check_page(
    found: Check,
    target: Path | str = "check.html",
    suggestions: Path | str = "suggestions.csv",
) -> Path:
    """Write what a check has found as one self-contained page; a page that is there is replaced.

    Parameters
    ----------
    found : Check
        Pictures are those of its `root`, where the images are at hand.
    target : Path or str
    suggestions : Path or str
        The file that the page names; see `Check.write_suggestions`.

    Raises
    ------
    CafeError
        If the file cannot be written.
    """
    templates = Environment(
        loader=PackageLoader("cafe.curation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    page = templates.get_template("check.html.j2")
    copies = sorted(found.copies, key=lambda c: len(c.splits) < 2)
    shown = [finding.image for finding in _findings(found)]
    shown += [image for group in copies[:_MOST] for image in group.images]
    path = Path(target)
    text = page.render(
        found=found,
        copies=copies,
        most=_MOST,
        pictures=_pictures(found, shown),
        suggestions=str(suggestions),
    )
    with raise_as(CafeError, f"cannot write the page to '{path}'", "choose another with --output"):
        write_text(path, text)
    return path


def _findings(found: Check) -> list[Finding]:
    kinds = (found.label_errors, found.outliers, found.useless)
    return [finding for kind in kinds for finding in kind[:_MOST]]


def _pictures(found: Check, images: Sequence[Labelled]) -> dict[str, str]:
    """Id -> a small JPEG as a data URI."""
    if found.root is None:
        return {}
    ids = dict(enumerate(dict.fromkeys(image.id for image in images)))
    pictures = thumbnails_from_folder(found.root, ids, found.boxes)
    return {ids[row]: uri for row, uri in pictures.items()}
