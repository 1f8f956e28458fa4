"""`cafe.relabel`: apply the suggestions that a person kept, with a way back.

What is to be done is written to an undo file before anything is changed, and is on disk then. A
list is replaced in one step. An image file is linked to its new place, where nothing is, and then
removed from the old one: whenever the process is killed, the undo file tells what to take back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cafe.curation.findings import free_name, origin_file
from cafe.curation.relabel_undo import move_file, read_undo, take_back, write_undo
from cafe.curation.relabelled import Relabelled
from cafe.curation.suggestions import Suggestion, read_suggestions
from cafe.datasets.dataset import Dataset
from cafe.datasets.load import listed_names, load_dataset
from cafe.datasets.relabel_list import Changes, edit_list
from cafe.datasets.text_files import clean_name, distinct_names, read_class_names
from cafe.datasets.thumbnails import stays_inside
from cafe.errors import InputError, UnknownNameError, escape_bytes, raise_as, unescape_bytes
from cafe.store.files import lock_file, write_file

_BOX = re.compile(r"\.\w+#\d+$")  # the id of a box: its image, and its number there


def relabel(
    file: Path | str,
    dataset: Path | str | None = None,
    *,
    split_file: Path | str | None = None,
    class_names: Path | None = None,
    yes: bool = False,
) -> Relabelled:
    """Apply the rows of a file of suggestions that propose another class, or take that back.

    Of a list (CSV, TSV, JSONL, or a split in CoOp's JSON) the classes are edited. In a folder of
    class folders image files are moved, with `yes` only, and never over another file. Rows whose
    image has got another class since, or is not there, are left.

    Parameters
    ----------
    file : Path or str
        Suggestions, or an undo file that this function has written.
    dataset : Path or str, optional
        The list or the folder. None takes the one that was checked, which `cafe check` has noted
        beside its suggestions.
    split_file : Path or str, optional
        The list, where the dataset is a folder with a split file.
    class_names : Path, optional
        The file of other class names that the suggestions use. None takes that of the check.
    yes : bool
        Move image files.

    Raises
    ------
    CafeError
        If a row is not usable, a class is unknown, or the dataset cannot be had; nothing is changed
        then.
    """
    file = Path(file)
    if (undo := read_undo(file)) is not None:
        return take_back(file, undo, yes=yes)
    rows = [row for row in read_suggestions(file) if row.is_change]
    if not rows:
        raise InputError(f"no row of '{file}' proposes another class; nothing is to be done.")
    if all(_BOX.search(row.id) for row in rows):
        raise InputError(
            f"'{file}' is about boxes, of which no label is changed here; correct them in the box "
            "file, where a.jpg#0 is the first box of a.jpg."
        )
    changes = _changes(rows, file)
    source, noted = _source(file, dataset, split_file)
    if (renamed := class_names or noted) is not None:
        changes = _in_own_names(changes, source, Path(renamed))
    with raise_as(InputError, f"cannot relabel '{source}'", "nothing was lost; try again"):
        if source.is_dir():
            return _relabel_folder(source, changes, file, yes=yes)
        return _relabel_list(source, changes, file)


def _changes(rows: Sequence[Suggestion], file: Path) -> Changes:
    changes: dict[str, tuple[str, str]] = {}
    for row in rows:
        pair = (row.current, row.proposed)
        if changes.get(row.id, pair)[1] != row.proposed:
            name = escape_bytes(row.id)
            raise InputError(f"'{file}' proposes two classes for '{name}'; keep one row.")
        changes[row.id] = pair
    return changes


def _source(
    file: Path, dataset: Path | str | None, split_file: Path | str | None
) -> tuple[Path, str | None]:
    """The list or the folder that is meant, and the file of class names of the check."""
    named: dict[str, Any] = {"dataset": dataset, "split_file": split_file}
    noted = origin_file(file)
    if dataset is None and split_file is None and noted.is_file():
        with raise_as(
            InputError, f"cannot read '{noted}'", "name the dataset", (OSError, ValueError)
        ):
            content = json.loads(noted.read_text(encoding="utf-8"))
            named = {k: unescape_bytes(str(v)) for k, v in dict(content).items()}
    path = named.get("split_file") or named.get("dataset")
    if path is None:
        raise InputError(
            f"which dataset '{file}' is about is not noted; name it: cafe relabel {file} DATASET."
        )
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"'{path}' is no folder or list; name the folder or list to relabel: cafe relabel "
            f"{file} DATASET."
        )
    lists = sorted(path.glob("split_*.json")) if path.is_dir() else []
    return lists[0] if len(lists) == 1 else path, named.get("class_names")


def _in_own_names(changes: Changes, source: Path, class_names: Path) -> Changes:
    """Changes between the classes' other names, as changes between the dataset's own."""
    own, others = listed_names(source), listed_names(source, read_class_names(class_names))
    names = dict(zip(distinct_names(others), own, strict=True))
    return {image: (names.get(a, a), names.get(b, b)) for image, (a, b) in changes.items()}


def _states(states: Mapping[str, str], changes: Changes) -> list[str]:
    """Rows that were left, a line each."""
    lines = []
    for name, (current, _) in changes.items():
        state, shown = states.get(name), escape_bytes(name)
        if state is None:
            lines.append(f"{shown}: not in the dataset")
        elif state == "as proposed":
            lines.append(f"{shown}: is of that class already")
        elif state != "changed":
            lines.append(f"{shown}: is '{state}' now, not '{current}'")
    return lines


def _undo_file(suggestions: Path) -> Path:
    """A free name beside the suggestions; call it while they are locked."""
    return free_name(suggestions.with_name(f"{suggestions.stem}.undo.json"))


def _relabel_list(file: Path, changes: Changes, suggestions: Path) -> Relabelled:
    with lock_file(suggestions.absolute()), lock_file(file.absolute()):
        before = file.read_bytes()
        edited = edit_list(file, changes)
        left = _states(edited.states, changes)
        done = [(n, *changes[n]) for n, state in edited.states.items() if state == "changed"]
        if not done:
            return Relabelled(file, [], False, None, left)
        undo_file = _undo_file(suggestions)
        write_undo(
            undo_file,
            list=escape_bytes(str(file.absolute())),
            before=base64.b64encode(zlib.compress(before)).decode(),
            sha256=hashlib.sha256(edited.content).hexdigest(),
        )
        with write_file(file) as stream:
            stream.write(edited.content)
    return Relabelled(file, done, True, undo_file, left)


def _relabel_folder(root: Path, changes: Changes, suggestions: Path, *, yes: bool) -> Relabelled:
    moves, states = _plan_moves(root, changes)
    left = _states(states, changes)
    listed = [(name, name, target) for name, target in moves.items()]
    if not (moves and yes):
        return Relabelled(root, listed, False, None, left)
    with lock_file(suggestions.absolute()):
        undo_file = _undo_file(suggestions)
        pairs = [[escape_bytes(a), escape_bytes(b)] for a, b in moves.items()]
        write_undo(undo_file, folder=escape_bytes(str(root.absolute())), moves=pairs)
        done = {move for move in listed if move_file(root / move[1], root / move[2])}
    gone = "another program has moved it, or taken its new place"
    left += [f"{escape_bytes(move[0])}: {gone}" for move in listed if move not in done]
    moved = [move for move in listed if move in done]
    return Relabelled(root, moved, bool(moved), undo_file, left)


def _plan_moves(root: Path, changes: Changes) -> tuple[dict[str, str], dict[str, str]]:
    """Path of an image -> where it is to be, and the state of each image asked for."""
    data = load_dataset(root)
    classes = {
        item.id: data.class_names[item.label] for part in data.splits.values() for item in part
    }
    depth = _depth(data, classes, root)
    folders = {clean_name(name.split("/")[depth]): name.split("/")[depth] for name in classes}
    taken, moves, states = set[str](), dict[str, str](), dict[str, str]()
    for name, (current, proposed) in changes.items():
        if name not in classes:
            continue
        new = clean_name(proposed)
        if new not in folders:
            raise UnknownNameError(
                "class", proposed, folders, f"The classes are folders of {root}."
            )
        if classes[name] == new:
            states[name] = "as proposed"
        elif current and classes[name] != clean_name(current):
            states[name] = classes[name]
        else:
            states[name] = "changed"
            parts = name.split("/")
            parts[depth] = folders[new]
            moves[name] = _free(root, "/".join(parts), taken)
            taken.add(moves[name])
            if not (stays_inside(root, name) and stays_inside(root, moves[name])):
                raise InputError(f"'{escape_bytes(name)}' leads out of '{root}'; nothing is moved.")
    return moves, states


def _depth(data: Dataset, classes: Mapping[str, str], root: Path) -> int:
    """Which part of a path is the class's folder: the first, or the second below splits."""
    for depth in (0, 1):
        parts = ((name.split("/"), label) for name, label in classes.items())
        if all(len(p) > depth + 1 and clean_name(p[depth]) == label for p, label in parts):
            return depth
    raise InputError(f"the classes of '{root}' ({data.source}) are no folders; name its list.")


def _free(root: Path, target: str, taken: set[str]) -> str:
    """A path where nothing is and nothing will be."""
    suffix = PurePosixPath(target).suffix
    stem = target.removesuffix(suffix)
    free, number = target, 1
    while free in taken or os.path.lexists(root / free):
        number += 1
        free = f"{stem}-{number}{suffix}"
    return free
