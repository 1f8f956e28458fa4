"""The way back from `cafe.relabel`: undo files, and moves that never overwrite a file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cafe.curation.relabelled import Relabelled
from cafe.datasets.relabel_list import EDITED
from cafe.datasets.text_files import clean_path
from cafe.datasets.thumbnails import stays_inside
from cafe.errors import InputError, escape_bytes, raise_as, unescape_bytes
from cafe.store.files import lock_file, write_file, write_text

_KIND = "cafe relabel undo"


def write_undo(path: Path, **content: Any) -> None:
    """Write what is to be done, before it is done."""
    write_text(path, json.dumps({"kind": _KIND, **content}, indent=1) + "\n")


def read_undo(file: Path) -> dict[str, Any] | None:
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


def take_back(file: Path, undo: Mapping[str, Any], *, yes: bool) -> Relabelled:
    """Do what an undo file says; of a folder, files are moved with `yes` only."""
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
                move_file(root / target, root / name)
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


def move_file(source: Path, target: Path) -> bool:
    """Move a file where nothing is, and say whether it was; a half of it that was done counts."""
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
