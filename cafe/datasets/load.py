"""From what a user names to a `Dataset`: a known name, a folder, or a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cafe.datasets import prompts
from cafe.datasets.base import Dataset
from cafe.datasets.catalog import BY_NAME
from cafe.datasets.disk import best_root, to_dataset
from cafe.datasets.download import by_hand, fetch
from cafe.datasets.known import Known
from cafe.datasets.listing import Listing, Names, choose_names
from cafe.datasets.paths import (
    at_home,
    exists,
    looks_like_path,
    read_path,
    read_split,
    short_name,
)
from cafe.datasets.resolve import default_data_root, image_roots, known_listing
from cafe.datasets.text import show
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

    Raises
    ------
    CafeError
        `UnknownNameError` for neither a known name nor a path; `MissingFilesError` for images that
        are not there; else `DatasetError` or `InputError`.
    """
    given = str(name_or_path)
    chosen = None if templates is None else prompts.check_templates(templates)
    name = _known_name(given)
    if name == "digits":
        return _load_digits(split_file, chosen, class_names)
    if name is None:
        path = _existing(given, download)
        found = read_path(path, data_root, split_file, class_names)
    else:
        root = data_root if data_root is not None else default_data_root()
        _be_present(BY_NAME[name], root, download)
        found = _read_known(BY_NAME[name], root, split_file, class_names, allow_missing)
    listing, source, image_root = found
    return to_dataset(
        listing,
        name=name or short_name(path),
        root=image_root,
        templates=chosen or prompts.templates_for(name or "default"),
        source=source,
        allow_missing=allow_missing,
    )


def _known_name(given: str) -> str | None:
    """Return the dataset of that name; `EuroSAT` is `eurosat` where no folder is called so."""
    if given in DATASET_NAMES:
        return given
    plain = given.lower().replace("-", "_")
    return plain if plain in DATASET_NAMES and not exists(Path(given)) else None


def _existing(given: str, download: bool) -> Path:
    path = at_home(given)
    if given and exists(path):
        if not download:
            return path
        raise InputError(
            f"'{given}' cannot be downloaded; only these can: "
            f"{', '.join(row.name for row in BY_NAME.values() if row.torchvision)}."
        )
    if looks_like_path(given):
        raise DatasetError(f"no such folder or manifest: {show(given)}; check the path.")
    hint = "Or give a folder of images or a manifest (.csv, .jsonl)."
    raise UnknownNameError("dataset", show(given)[1:-1], DATASET_NAMES, hint)


def _load_digits(
    split_file: Path | None, templates: tuple[str, ...] | None, class_names: Names
) -> Dataset:
    if split_file is not None:
        raise InputError("digits has no image files, so no split file can name them.")
    from cafe.datasets.digits import load_digits

    digits = load_digits(templates or prompts.templates_for("digits"))
    names = choose_names(dict(enumerate(digits.class_names)), class_names, "digits")
    return replace(digits, class_names=names)


def _be_present(row: Known, data_root: Path, download: bool) -> None:
    """Download the images if that is asked for and needed; raise if there are none."""
    if download and not any(any(root.iterdir()) for root in image_roots(row, data_root)):
        fetch(row, data_root)
    if image_roots(row, data_root):
        return
    looked = [data_root / folder / row.images[0] for folder in row.folders]
    advice = by_hand(row, data_root)
    if row.torchvision:
        advice = f"pass --download, or {advice}"
    raise DatasetError(f"{row.name} is not in {' or '.join(map(str, looked))}; {advice}.")


def _read_known(
    row: Known, data_root: Path, split_file: Path | None, class_names: Names, allow_missing: bool
) -> tuple[Listing, str, Path]:
    roots = image_roots(row, data_root)
    if split_file is not None:
        listing, source = read_split(split_file, roots[0], class_names)
    else:
        listing, source = known_listing(row, data_root, class_names)
        source += _check_class_count(row, listing, allow_missing)
    return listing, source, best_root(roots, listing)


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
