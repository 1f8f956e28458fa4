"""Writing a file or a folder in one step."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cafe.store.files.disk import real_path, sync
from cafe.store.files.temporary import temporary_folder


@contextlib.contextmanager
def write_file(target: Path) -> Iterator[BinaryIO]:
    """Write a file in one step: the target is whole and on disk, or as it was.

    Parameters
    ----------
    target : Path
        A file that is there is replaced. Its folder must exist.

    Yields
    ------
    BinaryIO
        An open file. It becomes the target when the block ends, and is removed if the block raises.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with write_path(target) as path, path.open("xb") as stream:
        yield stream


@contextlib.contextmanager
def write_path(target: Path) -> Iterator[Path]:
    """Write a file in one step by a library that wants a path; see `write_file`.

    Yields
    ------
    Path
        Where the file is to be made.
    """
    real = real_path(target)
    with temporary_folder(real.parent) as folder:
        yield folder / real.name
        move(folder / real.name, real)


def write_text(target: Path, text: str) -> None:
    """Write a text file in UTF-8 in one step; see `write_file`."""
    with write_file(target) as stream:
        stream.write(text.encode())


def write_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Write a folder in one step: it appears with all that is in it, or not at all.

    Parameters
    ----------
    target : Path
        Where the name is taken, `-2`, `-3`, ... is appended to it. Its parent must exist.
    fill : callable
        Called with the path of an empty folder; writes files into it.

    Returns
    -------
    Path
        The folder, under the name that was free.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    with temporary_folder(target.parent) as temporary:
        content = temporary / "content"
        content.mkdir()
        fill(content)
        for path in content.rglob("*"):
            sync(path)
        named, number = target, 1
        while True:
            if not named.exists():
                with contextlib.suppress(FileExistsError):  # another writer took the name just now
                    move(content, named)
                    return named
            number += 1
            named = target.with_name(f"{target.name}-{number}")


def move(source: Path, target: Path) -> None:
    """Put a complete file or folder on disk and rename it to its target, in one step.

    Raises
    ------
    FileExistsError
        If the source is a folder and the target holds files.
    OSError
        If it cannot be renamed.
    """
    sync(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # what Linux says of a folder that is there
            raise FileExistsError(errno.EEXIST, error.strerror, str(target)) from error
        raise
    sync(target.parent)  # the new name is on disk only when its folder is
