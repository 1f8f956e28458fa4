"""A check as one page of HTML that works offline: pictures in it, no script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cafe.curation.findings import Check, Finding, Labelled
from cafe.datasets.thumbnails import thumbnails_from_folder
from cafe.errors import CafeError, counted, raise_as, visible
from cafe.store.files import write_text
from cafe.store.key import say_items

_MOST = 100
"""Images of a kind, and classes, that are shown; all images are in `suggestions.csv`."""


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
    templates.filters["counted"] = counted
    templates.filters["items"] = partial(say_items, noun=found.noun)
    page = templates.get_template("check.html.j2")
    copies = sorted(found.copies, key=lambda c: len(c.splits) < 2)
    poor = {row["name"] for row in found.poor_classes}
    shown = [finding.image for finding in _findings(found)]
    shown += [image for group in copies[:_MOST] for image in group.images]
    path = Path(target)
    text = page.render(
        found=found,
        copies=copies,
        classes=sorted(found.classes, key=lambda row: row["name"] not in poor),
        changes=any(row.is_change for row in found.suggestions),
        next_step=next_step(found, Path(suggestions)),
        parts={
            "labels": ("Likely label errors", len(found.label_errors)),
            "copies": ("Groups of copies", len(copies)),
            "outliers": ("Outliers", len(found.outliers)),
            "useless": ("Almost blank or tiny", len(found.useless)),
        },
        most=_MOST,
        pictures=_pictures(found, shown),
        suggestions=str(suggestions),
    )
    with raise_as(CafeError, f"cannot write the page to '{path}'", "choose another with --output"):
        write_text(path, text)
    return path


def next_step(found: Check, file: Path) -> str:
    """What a person can do with the suggestions."""
    if found.boxes:
        return (
            "Next: correct these labels in the box file, where a.jpg#0 is the first box of a.jpg, "
            "and extract again; 'cafe relabel' has no use here."
        )
    where = found.origin.get("split_file") or found.origin.get("dataset")
    if where is not None and not Path(where).exists():
        return (
            f"The labels of {where} come with it and are no files: 'cafe relabel' has no use here."
        )
    dataset = " DATASET" if where is None else " --yes" if Path(where).is_dir() else ""
    return (
        f"Next: delete the rows of {file} that you do not agree with, then: "
        f"cafe relabel {file}{dataset}"
    )


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
