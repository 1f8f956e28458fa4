"""A folder or a manifest that a user names by its path."""

from __future__ import annotations

from pathlib import Path

from cafe.datasets.disk import best_root
from cafe.datasets.folder import read_folder, subfolders
from cafe.datasets.listing import Listing, Names
from cafe.datasets.manifest import SUFFIXES, read_manifest
from cafe.datasets.splitfile import read_split_file
from cafe.datasets.text import some
from cafe.errors import InputError


def exists(path: Path) -> bool:
    """Tell whether there is such a path; a name that cannot be one is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or it holds a NUL
        return False


def at_home(given: str) -> Path:
    """Make a path of a text, with `~` as the home folder."""
    try:
        return Path(given).expanduser()
    except RuntimeError:  # "~nobody"
        return Path(given)


def looks_like_path(given: str) -> bool:
    """Tell whether a text that is no known name was meant as a path."""
    suffixes = (*SUFFIXES, ".json")
    return "/" in given or given.startswith((".", "~")) or given.lower().endswith(suffixes)


def short_name(path: Path) -> str:
    """Name of a dataset that is a folder or a manifest."""
    if path.name in ("", ".."):
        path = path.resolve()
    return (path.name if path.is_dir() else path.stem) or "root"


def read_path(
    path: Path, data_root: Path | None, split_file: Path | None, class_names: Names
) -> tuple[Listing, str, Path]:
    """Read a folder or a manifest.

    Parameters
    ----------
    path : Path
        The folder or the manifest.
    data_root : Path or None
        What a manifest's paths are relative to; None takes its folder.
    split_file : Path or None
        A split to use with a folder of images; None takes `split_*.json` in it, if it has one.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead.

    Returns
    -------
    (Listing, str, Path)
        The images, in words which split they have, and the root of their paths.
    """
    if path.is_dir():
        split_file = split_file or _split_file_in(path)
        if split_file is None:
            return *read_folder(path, class_names), path
        listing, source = read_split(split_file, path, class_names)
        return listing, source, best_root([path, *(path / n for n in subfolders(path))], listing)
    if path.suffix.lower() == ".json":
        raise InputError(f"{path} is a file; name the folder of its images, and --split-file.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is neither a folder nor a manifest ({' or '.join(SUFFIXES)}).")
    if split_file is not None:
        raise InputError(f"{path} and {split_file} both give a split; name one of them.")
    root = data_root if data_root is not None else path.parent
    return *read_manifest(path, root, class_names), root


def read_split(path: Path, root: Path, class_names: Names) -> tuple[Listing, str]:
    """Read a split that the user names: CoOp's JSON, or a manifest."""
    if path.suffix.lower() in SUFFIXES:
        return read_manifest(path, root, class_names)
    return read_split_file(path, class_names), f"split file {path.name}"


def _split_file_in(folder: Path) -> Path | None:
    """The split file that lies in a folder of images, if there is just one."""
    found = sorted(path for path in folder.glob("split_*.json") if path.is_file())
    if len(found) > 1:
        raise InputError(
            f"{folder} has {len(found)} split files ({some(path.name for path in found)}); "
            "choose one with --split-file."
        )
    return found[0] if found else None
