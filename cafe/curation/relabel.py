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
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cafe.curation.findings import free_name, origin_file
from cafe.curation.suggestions import Suggestion, read_suggestions
from cafe.datasets.dataset import Dataset
from cafe.datasets.load import load_dataset
from cafe.datasets.relabel_list import EDITED, Changes, edit_list
from cafe.datasets.text_files import clean_name, clean_path, distinct_names
from cafe.datasets.thumbnails import stays_inside
from cafe.errors import InputError, UnknownNameError, escape_bytes, raise_as, unescape_bytes
from cafe.extract.prepare import load_named
from cafe.store.files import lock_file, write_file, write_text

_KIND = "cafe relabel undo"
_BOX = re.compile(r"\.\w+#\d+$")  # the id of a box: its image, and its number there


@dataclass(frozen=True)
class Relabelled:
    """What was relabelled, or would be.

    Attributes
    ----------
    target : Path
        The list that was edited, or the folder that images are moved in.
    changes : list of (str, str, str)
        Image, class before and class after; of a folder, image, path before and path after.
    done : bool
        Whether it was done. Images of a folder are moved with `yes` only.
    undo : Path or None
        The file that takes it back.
    left : list of str
        Rows that were left, with the reason, a line each.
    """

    target: Path
    changes: list[tuple[str, str, str]]
    done: bool
    undo: Path | None = None
    left: list[str] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "target": escape_bytes(str(self.target)),
            "changes": [
                dict(zip(("id", "from", "to"), map(escape_bytes, c), strict=True))
                for c in self.changes
            ],
            "done": self.done,
            "undo": None if self.undo is None else escape_bytes(str(self.undo)),
            "left": self.left,
        }


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
    if (undo := _read_undo(file)) is not None:
        return _take_back(file, undo, yes=yes)
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
    undo_file = free_name(file.with_name(f"{file.stem}.undo.json"))
    with raise_as(InputError, f"cannot relabel '{source}'", "nothing was lost; try again"):
        if source.is_dir():
            return _relabel_folder(source, changes, undo_file, yes=yes)
        return _relabel_list(source, changes, undo_file)


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
    own = load_dataset(source, allow_missing=True)
    others = load_named(
        source,
        None,
        class_names,
        None,
        data_root=None,
        split_file=None,
        download=False,
        allow_missing=True,
    )
    names = dict(zip(distinct_names(others.class_names), own.class_names, strict=True))
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


def _relabel_list(file: Path, changes: Changes, undo_file: Path) -> Relabelled:
    with lock_file(file.absolute()):
        before = file.read_bytes()
        edited = edit_list(file, changes)
        left = _states(edited.states, changes)
        done = [(n, *changes[n]) for n, state in edited.states.items() if state == "changed"]
        if not done:
            return Relabelled(file, [], False, None, left)
        _write_undo(
            undo_file,
            list=escape_bytes(str(file.absolute())),
            before=base64.b64encode(zlib.compress(before)).decode(),
            sha256=hashlib.sha256(edited.content).hexdigest(),
        )
        with write_file(file) as stream:
            stream.write(edited.content)
    return Relabelled(file, done, True, undo_file, left)


def _relabel_folder(root: Path, changes: Changes, undo_file: Path, *, yes: bool) -> Relabelled:
    moves, states = _plan_moves(root, changes)
    left = _states(states, changes)
    listed = [(name, name, target) for name, target in moves.items()]
    if not moves or not yes:
        return Relabelled(root, listed, False, None, left)
    with lock_file(undo_file.absolute()):
        pairs = [[escape_bytes(a), escape_bytes(b)] for a, b in moves.items()]
        _write_undo(undo_file, folder=escape_bytes(str(root.absolute())), moves=pairs)
        for name, target in moves.items():
            _move(root / name, root / target)
    return Relabelled(root, listed, True, undo_file, left)


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


def _move(source: Path, target: Path) -> bool:
    """Move a file where nothing is; done by halves before, it is finished."""
    if not os.path.lexists(source):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(source.lstat(), target.lstat()):
            return False
    except OSError:  # a file system without links
        if os.path.lexists(target):
            return False
        source.rename(target)
        return True
    _unlink(source)
    return True


def _unlink(path: Path) -> None:
    path.unlink()


def _write_undo(path: Path, **content: Any) -> None:
    write_text(path, json.dumps({"kind": _KIND, **content}, indent=1) + "\n")


def _read_undo(file: Path) -> dict[str, Any] | None:
    """The content of an undo file; None of any other file."""
    if file.suffix.lower() != ".json":
        return None
    with raise_as(
        InputError,
        f"cannot read '{file}'",
        "give suggestions or an undo file",
        (OSError, ValueError, RecursionError),
    ):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise ValueError("it is no undo file of cafe relabel")
    return content


def _take_back(file: Path, undo: Mapping[str, Any], *, yes: bool) -> Relabelled:
    faults = (OSError, ValueError, KeyError, TypeError, zlib.error)
    with raise_as(
        InputError, f"cannot take back what '{file}' says", "nothing was changed", faults
    ):
        if "list" in undo:
            return _restore_list(Path(unescape_bytes(undo["list"])), undo)
        root = Path(unescape_bytes(undo["folder"]))
        pairs = [
            (clean_path(unescape_bytes(a), str(file)), clean_path(unescape_bytes(b), str(file)))
            for a, b in undo["moves"]
        ]
        if not root.is_dir() or not all(stays_inside(root, p) for pair in pairs for p in pair):
            raise InputError(f"'{file}' names files outside of '{root}'; nothing is moved.")
        moved, left = [], []
        for name, target in pairs:
            if not os.path.lexists(root / target):
                left.append(f"{escape_bytes(target)}: is not there")
            elif os.path.lexists(root / name) and not (root / name).samefile(root / target):
                left.append(f"{escape_bytes(name)}: another file is there")
            else:
                moved.append((name, target, name))
        if not yes:
            return Relabelled(root, moved, False, None, left)
        for name, target, _ in moved:
            if os.path.lexists(root / name):  # linked, and killed before the old name was removed
                (root / target).unlink()
            else:
                _move(root / target, root / name)
    return Relabelled(root, moved, bool(moved), None, left)


def _restore_list(file: Path, undo: Mapping[str, Any]) -> Relabelled:
    if file.suffix.lower() not in EDITED or not file.is_file():
        raise InputError(f"'{file}' is no list of images that is there.")
    before = zlib.decompress(base64.b64decode(undo["before"]))
    with lock_file(file.absolute()):
        now = file.read_bytes()
        if now == before:
            return Relabelled(file, [], False, None, [f"{escape_bytes(str(file))}: is as it was"])
        if hashlib.sha256(now).hexdigest() != undo["sha256"]:
            raise InputError(f"'{file}' was changed after it was relabelled; it is left as it is.")
        with write_file(file) as stream:
            stream.write(before)
    return Relabelled(file, [(file.name, "relabelled", "as before")], True)
