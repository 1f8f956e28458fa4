"""The images that a command line names: files, folders, globs, URLs, and paths on stdin."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence

from cafe.errors import CafeError


def expand_images(words: Sequence[str]) -> list[str]:
    """Put what a glob stands for, and the lines of stdin for `-`, in its place.

    Raises
    ------
    CafeError
        If a glob stands for nothing.
    """
    return [path for word in words for path in _expand(word)]


def _expand(word: str) -> list[str]:
    if word == "-":
        return _lines_of_stdin()
    if (
        not glob.has_magic(word)
        or word.startswith(("http://", "https://"))
        or os.path.lexists(word)
    ):
        return [word]
    found = sorted(glob.glob(word, recursive=True))  # noqa: PTH207  # which refuses "/..."
    if not found:
        raise CafeError(f"no file is named like '{word}'; 'DIR/**/*.jpg' looks into all folders.")
    return found


def _lines_of_stdin() -> list[str]:
    """One path a line, or with zero bytes between, as `find -print0` has them."""
    content = os.fsdecode(sys.stdin.buffer.read())
    lines = content.split("\0") if "\0" in content else content.replace("\r\n", "\n").split("\n")
    return list(filter(None, lines))
