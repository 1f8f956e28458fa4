"""From what a user names to a `Dataset`: a known name, a folder, or a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cafe import prompts
from cafe.datasets.base import Dataset
from cafe.datasets.catalog import BY_NAME
from cafe.datasets.disk import best_root, to_dataset
from cafe.datasets.download import by_hand, fetch
from cafe.datasets.folder import read_folder, subfolders
from cafe.datasets.known import Known
from cafe.datasets.listing import Listing, Names, choose_names
from cafe.datasets.manifest import SUFFIXES, read_manifest
from cafe.datasets.resolve import default_data_root, image_roots, known_listing
from cafe.datasets.splitfile import read_split_file
from cafe.datasets.text import show, some
from cafe.errors import DatasetError, InputError, UnknownNameError

DATASET_NAMES = ("digits", *BY_NAME)


def load_dataset(
    name_or_path: str | Path,
    *,
    data_root: Path | None = None,
    split_file: Path | None = None,
    download: bool = False,
    allow_missing: bool = False,
    templates: tuple[str, ...] | None = None,
    class_names: Names = None,
) -> Dataset:
    """Load a dataset: which images there are, in which classes and splits. No image is opened.

    Parameters
    ----------
    name_or_path : str or Path
        A known name ("digits", "dtd", ...); else a folder (`<class>/*` or `train/<class>/*`, or
        with a split file in it); else a manifest (`.csv`, `.jsonl`). A known name wins over a
        folder of that name: write `./digits` for the folder.
    data_root : Path or None
        Where known datasets lie; None takes `$CAFE_DATA`, else `./data`. For a manifest, what its
        paths are relative to; None takes its folder.
    split_file : Path or None
        A split in CoOp's JSON format, or a manifest, to use with the images of `name_or_path`;
        None takes the best split that is there.
    download : bool
        Fetch a known dataset that is not there, where torchvision can.
    allow_missing : bool
        Go on without images that a split names and the disk lacks.
    templates : tuple of str or None
        Prompt templates; None takes the dataset's own.
    class_names : sequence of str, mapping of str to str, or None
        All class names in the order of the labels, or old name -> new name; None keeps them.

    Returns
    -------
    Dataset
        With `source` saying in words which split it is.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor a path.
    DatasetError
        If the files are no usable dataset; `MissingFilesError` where images are missing.
    InputError
        If the arguments do not fit together.
    """
    given = str(name_or_path)
    if templates is not None:
        templates = prompts.check_templates(templates)
    name = _known_name(given)
    if name == "digits":
        return _load_digits(split_file, templates, class_names)
    if name is not None:
        root = data_root if data_root is not None else default_data_root()
        chosen = templates or prompts.templates_for(name)
        return _load_known(
            BY_NAME[name], root, split_file, download, allow_missing, chosen, class_names
        )
    if download:
        raise InputError(
            f"'{given}' cannot be downloaded; only these can: "
            f"{', '.join(row.name for row in BY_NAME.values() if row.torchvision)}."
        )
    path = _existing(given)
    root, listing, source = _read_path(path, data_root, split_file, class_names)
    return to_dataset(
        listing,
        name=_short_name(path),
        root=root,
        templates=templates or prompts.templates_for("default"),
        source=source,
        allow_missing=allow_missing,
    )


def _load_digits(
    split_file: Path | None, templates: tuple[str, ...] | None, class_names: Names
) -> Dataset:
    if split_file is not None:
        raise InputError("digits has no image files, so no split file can name them.")
    from cafe.datasets.digits import load_digits

    digits = load_digits(templates or prompts.templates_for("digits"))
    names = choose_names(dict(enumerate(digits.class_names)), class_names, "digits")
    return replace(digits, class_names=names)


def _load_known(
    row: Known,
    data_root: Path,
    split_file: Path | None,
    download: bool,
    allow_missing: bool,
    templates: tuple[str, ...],
    class_names: Names,
) -> Dataset:
    if download and not any(any(root.iterdir()) for root in image_roots(row, data_root)):
        fetch(row, data_root)
    roots = image_roots(row, data_root)
    if not roots:
        raise DatasetError(_absent(row, data_root))
    if split_file is not None:
        listing, source = _read_split(split_file, roots[0], class_names)
    else:
        listing, source = known_listing(row, data_root, class_names)
        source += _check_class_count(row, listing, allow_missing)
    return to_dataset(
        listing,
        name=row.name,
        root=best_root(roots, listing),
        templates=templates,
        source=source,
        allow_missing=allow_missing,
    )


def _absent(row: Known, data_root: Path) -> str:
    looked = [data_root / folder / row.images[0] for folder in row.folders]
    advice = by_hand(row, data_root)
    if row.torchvision:
        advice = f"pass --download, or {advice}"
    return f"{row.name} is not in {' or '.join(map(str, looked))}; {advice}."


def _check_class_count(row: Known, listing: Listing, allow_missing: bool) -> str:
    count = len(listing.class_names)
    if count == row.classes:
        return ""
    if not allow_missing:
        raise DatasetError(
            f"{row.name} has {row.classes} classes but {count} were found; complete it, name a "
            "split file (--split-file), or allow missing images (--allow-missing)."
        )
    return f"; {count} of {row.classes} classes found"


def _at_home(given: str) -> Path:
    try:
        return Path(given).expanduser()
    except RuntimeError:  # "~nobody"
        return Path(given)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _known_name(given: str) -> str | None:
    """Return the dataset of that name; `EuroSAT` is `eurosat` where no folder is called so."""
    if given in DATASET_NAMES:
        return given
    plain = given.lower().replace("-", "_")
    return plain if plain in DATASET_NAMES and not _exists(Path(given)) else None


def _short_name(path: Path) -> str:
    if path.name in ("", ".."):
        path = path.resolve()
    return (path.name if path.is_dir() else path.stem) or "root"


def _existing(given: str) -> Path:
    path = _at_home(given)
    if given and _exists(path):
        return path
    if "/" in given or given.startswith((".", "~")) or path.suffix.lower() in (*SUFFIXES, ".json"):
        raise DatasetError(f"no such folder or manifest: {show(given)}; check the path.")
    hint = "Or give a folder of images or a manifest (.csv, .jsonl)."
    raise UnknownNameError("dataset", show(given)[1:-1], DATASET_NAMES, hint)


def _read_path(
    path: Path, data_root: Path | None, split_file: Path | None, class_names: Names
) -> tuple[Path, Listing, str]:
    """Root, listing and source of a folder or a manifest."""
    if path.is_dir():
        split_file = split_file or _split_file_in(path)
        if split_file is None:
            return path, *read_folder(path, class_names)
        listing, source = _read_split(split_file, path, class_names)
        roots = [path, *(path / name for name in subfolders(path))]
        return best_root(roots, listing), listing, source
    if path.suffix.lower() == ".json":
        raise InputError(f"{path} is a file; name the folder of its images, and --split-file.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is neither a folder nor a manifest ({' or '.join(SUFFIXES)}).")
    if split_file is not None:
        raise InputError(f"{path} and {split_file} both give a split; name one of them.")
    root = data_root if data_root is not None else path.parent
    return root, *read_manifest(path, root, class_names)


def _read_split(path: Path, root: Path, class_names: Names) -> tuple[Listing, str]:
    if path.suffix.lower() in SUFFIXES:
        return read_manifest(path, root, class_names)
    return read_split_file(path, class_names), f"split file {path.name}"


def _split_file_in(folder: Path) -> Path | None:
    """The split file that lies in a folder of images, if there is just one."""
    found: Iterable[Path] = sorted(folder.glob("split_*.json"))
    listed = [path for path in found if path.is_file()]
    if len(listed) > 1:
        raise InputError(
            f"{folder} has {len(listed)} split files ({some(path.name for path in listed)}); "
            "choose one with --split-file."
        )
    return listed[0] if listed else None
