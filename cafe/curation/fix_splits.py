"""A split in which copies are together, as a manifest that the next extraction takes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cafe.curation.findings import Check, free_name
from cafe.errors import InputError, escape_bytes, raise_as
from cafe.store.files import write_text


def fix_splits(found: Check, path: Path | str = "splits.csv") -> Path:
    """Write a manifest in which each group of copies is in one split.

    A group with a training image goes to train, as no class loses its training images so; another
    to val. All other images stay where they are. No file that is there is overwritten.

    Parameters
    ----------
    found : Check
    path : Path or str
        `-2`, `-3`, ... is appended where it is taken.

    Raises
    ------
    InputError
        If items are boxes, there are no copies across splits, no test image would be left, or the
        file cannot be written.
    """
    if found.boxes:
        raise InputError(
            f"{found.name} holds boxes, whose images make the splits; move whole images between "
            "the lists or files of the splits."
        )
    moved = {}
    for copies in found.copies:
        target = "train" if "train" in copies.splits else "val"
        if len(copies.splits) > 1:
            moved.update({(image.split, image.id): target for image in copies.images})
    if not moved:
        raise InputError(f"no copies are in two splits of {found.name}; nothing is to be fixed.")
    rows = [(moved.get((i.split, i.id), i.split), i) for i in found.labelled]
    splits = {split for split, _ in rows}
    if "test" in {i.split for i in found.labelled} and "test" not in splits:
        raise InputError("every test image has a copy in another split; take another test set.")
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["path", "label", "split"])
    writer.writerows([escape_bytes(i.id), i.label, split] for split, i in rows)
    path = free_name(Path(path))
    with raise_as(InputError, f"cannot write '{path}'", "choose another file"):
        write_text(path, stream.getvalue())
    return path
