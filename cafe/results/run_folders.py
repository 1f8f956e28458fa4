"""The runs of a folder: listing, finding, reading and removing them; nothing else is removed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cafe.errors import CafeError, InputError, UnknownNameError, raise_as
from cafe.results.page import GRID_ROWS, PAGE
from cafe.results.record import RECORD, Record, read_record
from cafe.results.saved_model import MODEL
from cafe.store.files import move, temporary_folder

_FILES = {RECORD, PAGE, GRID_ROWS, "grid.csv", "runs.csv", "predictions.csv"}
"""What a run holds beside its heads."""

_HEAD = re.compile(r".+\.(\d+|all)shot\.seed\d+\.safetensors")


class RunNotFoundError(CafeError, FileNotFoundError):
    """No such run."""


def list_runs(runs: Path) -> list[Path]:
    """The runs of a folder, newest first."""
    records = filter(os.path.isfile, runs.glob(f"[!.]*/{RECORD}"))  # no link to nothing
    found = [path.parent for path in records]
    return sorted(found, key=_age, reverse=True)


def list_unfinished(runs: Path) -> list[Path]:
    """Folders of grids and comparisons that go on, or were interrupted.

    The same command goes on with one, by the same versions of cafe and PyTorch.
    """
    found = (path for kind in ("grid", "compare") for path in runs.glob(f".{kind}-*"))
    return sorted(filter(Path.is_dir, found))


def _age(run: Path) -> tuple[float, str]:
    try:
        return (run / RECORD).stat().st_mtime, run.name
    except OSError:  # removed just now
        return 0.0, run.name


def newest_run(folder: Path) -> Path:
    """The folder itself where it is a run, else the newest run in it."""
    if (folder / RECORD).is_file():
        return folder
    inside = list_runs(folder)
    if not inside:
        if (folder / MODEL).is_file():
            raise RunNotFoundError(
                f"'{folder}' is a model, and a run is asked for; 'cafe fit' makes one."
            )
        what = "holds no run" if folder.is_dir() else "is neither a run nor a head's file"
        raise RunNotFoundError(
            f"'{folder}' {what} and is no model; 'cafe train' makes a model and 'cafe fit' a run, "
            "and either is named before the images."
        )
    return inside[0]


def locate_run(runs: Path, run: str | None = None) -> Path:
    """The folder of one run.

    Parameters
    ----------
    runs : Path
        A folder of runs.
    run : str, optional
        The folder of a run, or its name in `runs`; None takes the newest.

    Raises
    ------
    RunNotFoundError
        If there is none.
    UnknownNameError
        If the name is not among the runs; the nearest are suggested.
    """
    if run is None:
        return newest_run(runs)
    for folder in (Path(run), runs / run):
        if (folder / RECORD).is_file():
            return folder
    names = [path.name for path in list_runs(runs)]
    if "/" not in run and names:
        raise UnknownNameError("run", run, names, f"In '{runs}'.")
    raise RunNotFoundError(f"no run '{run}'; 'cafe runs ls' lists those in '{runs}'.")


def load_record(run: Path | str = "runs") -> Record:
    """Read the record of a run back.

    Parameters
    ----------
    run : Path or str
        The folder of a run, or a folder of runs, of which it takes the newest.

    Returns
    -------
    Record
        Without the heads, which `cafe.load_head` reads.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    InputError
        If its record is damaged.

    Examples
    --------
    >>> record = cafe.load_record("runs/mine")
    >>> [result.method for result in record.results][:3]
    ['zero-shot', 'nearest-class', 'clip-adapter']
    >>> len(record.frame())  # methods x shots x seeds
    12
    """
    return read_record(newest_run(Path(run)))


def size_of_run(run: Path) -> int:
    """Bytes of a run's files."""
    return sum(path.lstat().st_size for path in run.iterdir())


def remove_run(run: Path) -> int:
    """Remove the folder of a run, in one step.

    Returns
    -------
    int
        The bytes freed.

    Raises
    ------
    CafeError
        If it is no run, holds anything else, or cannot be removed.
    """
    with raise_as(CafeError, f"cannot remove '{run}'", "check its folder"):
        check_run_removable(run)
        size = size_of_run(run)
        folder = run.absolute()
        with temporary_folder(folder.parent) as hidden:
            move(folder, hidden / "run")
    return size


def check_run_removable(run: Path) -> None:
    """Refuse what is no run, and a run with other files in it.

    A run whose record is damaged is known by the page beside it.

    Raises
    ------
    CafeError
        If it is no run, or holds anything else.
    """
    if run.is_symlink():
        raise CafeError(f"'{run}' is a link, not a run; remove the link itself with 'rm'.")
    if not run.is_dir() or not (run / RECORD).is_file():
        raise CafeError(f"'{run}' is no run of cafe, and is kept; 'cafe runs ls' lists the runs.")
    try:
        read_record(run)
    except InputError:
        if not (run / PAGE).is_file():
            raise CafeError(
                f"'{run}' is no run of cafe, and is kept; remove it with 'rm'."
            ) from None
    for path in sorted(run.iterdir()):
        of_cafe = path.name in _FILES or _HEAD.fullmatch(path.name)
        if not of_cafe or path.is_symlink() or not path.is_file():
            raise CafeError(f"'{run}' holds '{path.name}', which no run has; move it away first.")


def check_output(output: Path, *suffixes: str) -> None:
    """Refuse, before the work, to write over what no earlier call can have made.

    Parameters
    ----------
    output : Path
        A file to write; one that is there is replaced.
    *suffixes : str
        How the names of such files end, in lower case.

    Raises
    ------
    CafeError
        If a file of another kind is there, or the head of a run.
    """
    file = Path(os.path.realpath(output))
    if not file.is_file():
        return
    if file.suffix.lower() not in suffixes:
        raise CafeError(
            f"'{output}' is there already and is no {suffixes[0]} file; remove it, or choose "
            "another with output=."
        )
    if _HEAD.fullmatch(file.name) and (file.parent / RECORD).is_file():
        raise CafeError(f"'{output}' is a head of a run; choose another with output=.")
