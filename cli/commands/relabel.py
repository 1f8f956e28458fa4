"""`cafe relabel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cafe.errors import counted, escape_bytes

from .. import options as opt
from ..output import note, print_json, print_table, say
from ..signals import on_stop

if TYPE_CHECKING:
    from cafe.curation.relabelled import Relabelled

File = Annotated[
    Path, Argument(metavar="FILE", help="Suggestions of 'cafe check', or an undo file.")
]
DatasetPath = Annotated[
    Path | None,
    Argument(metavar="[DATASET]", help="The list or folder [default: the one that was checked]."),
]
Yes = Annotated[bool, Option("--yes", "-y", help="Move image files.")]
_MOST = 20  # changes and rows that are printed


def relabel(
    file: File,
    dataset: DatasetPath = None,
    split_file: opt.SplitFile = None,
    class_names: opt.ClassNames = None,
    yes: Yes = False,
    as_json: opt.Json = False,
) -> None:
    """Apply the suggestions that you kept. A file that undoes it is written beside them.

    A list (CSV, TSV, JSONL, split JSON) is edited. In a folder of classes images are moved, with
    --yes only.

    Example: cafe relabel suggestions.csv --yes
    """
    from cafe.curation.relabel import relabel as run

    with on_stop("what was done is in the undo file beside the suggestions."):
        made = run(file, dataset, split_file=split_file, class_names=class_names, yes=yes)
    if as_json:
        print_json(made.json)
    else:
        _print(made)


def _print(made: Relabelled) -> None:
    skip = int(made.target.is_dir())  # in a folder the image is its place
    rows = [list(map(escape_bytes, change[skip:])) for change in made.changes[:_MOST]]
    if rows:
        print_table(["image", "from", "to"][skip:], rows)
    if len(made.changes) > _MOST:
        say(f"and {len(made.changes) - _MOST:,} more")
    for line in made.left[:_MOST]:
        note(f"left: {line}")
    if len(made.left) > _MOST:
        note(f"left: {len(made.left) - _MOST:,} more")
    count, target = counted(len(made.changes), "change"), escape_bytes(str(made.target))
    if not made.changes:
        say(f"nothing to change in {target}.")
    elif not made.done:
        say(f"{count} to make in {target}; --yes moves the images.")
    else:
        say(f"{count} made in {target}.")
    if made.undo is not None:
        way = " --yes" if made.target.is_dir() else ""
        say(f"The way back: cafe relabel {escape_bytes(str(made.undo))}{way}")
        say("Next: cafe train again, as before; only what is new is encoded.")
