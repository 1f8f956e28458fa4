"""From what a user names to a `Dataset`: a known name, a folder, or a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from cafe.datasets import prompts
from cafe.datasets.catalog import BY_NAME, KnownDataset
from cafe.datasets.class_order import first_pairs
from cafe.datasets.coop_split import read_coop_split
from cafe.datasets.dataset import Dataset
from cafe.datasets.download import download_known
from cafe.datasets.image_files import best_root, look_up_images
from cafe.datasets.image_folder import read_folder
from cafe.datasets.image_list import ClassNames, ImageList, choose_names, pairs_in_words
from cafe.datasets.known import default_data_root, how_to_get, image_roots, read_known
from cafe.datasets.list_folder import subfolders
from cafe.datasets.manifest import SUFFIXES, read_manifest
from cafe.datasets.packed_sources import find_packed_source, read_packed_source
from cafe.datasets.text_files import in_words, quote, quote_some
from cafe.errors import DatasetError, InputError, UnknownNameError, escape_bytes, verb

D = TypeVar("D", bound=Dataset)
DATASET_NAMES = ("digits", *BY_NAME)


class _Source(NamedTuple):
    """A split, which one it is in words, and the folder that its paths are relative to."""

    images: ImageList
    words: str
    root: Path


def load_dataset(
    name_or_path: str | Path,
    *,
    data_root: Path | None = None,
    split_file: Path | None = None,
    download: bool = False,
    allow_missing: bool = False,
    templates: tuple[str, ...] | None = None,
    class_names: ClassNames = None,
) -> Dataset:
    """Load a dataset: which images there are, in which classes and splits. No image is opened.

    Parameters
    ----------
    name_or_path : str or Path
        A known name ("digits", "dtd", ...); else a folder (`<class>/*` or `train/<class>/*`, or
        with a split file in it); else a manifest (`.csv`, `.jsonl`, `.parquet`), tar shards
        (`shards/{000..009}.tar`), Parquet files with images, or `hf:NAME[:CONFIG]` of the Hub. A
        known name wins over a folder of that name: write `./digits` for the folder.
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
    if templates is not None:
        templates = prompts.check_templates(templates)
    name = _known_name(str(name_or_path))
    if name == "digits":
        return _load_digits(split_file, templates, class_names)
    if name is None and (packed := find_packed_source(str(name_or_path))) is not None:
        if split_file is not None or download:
            raise InputError(f"'{name_or_path}' takes no split file and no download.")
        images = read_packed_source(
            packed,
            templates=templates or prompts.templates_for("default"),
            class_names=class_names,
            allow_missing=allow_missing,
        )
        return images if class_names is not None else with_words(images)
    if name is None:
        path = _existing_path(str(name_or_path), download)
        source = _read_path(path, data_root, split_file, class_names)
    else:
        root = data_root if data_root is not None else default_data_root()
        _require_images(BY_NAME[name], root, download)
        source = _read_known(BY_NAME[name], root, split_file, class_names, allow_missing)
    dataset = look_up_images(
        source.images,
        name=name or short_name(path),
        root=source.root,
        templates=templates or prompts.templates_for(name or "default"),
        source=source.words,
        allow_missing=allow_missing,
    )
    return dataset if name or class_names is not None else with_words(dataset)


def with_words(dataset: D) -> D:
    """Let prompts say `annual crop` of a class that a folder or a table calls `AnnualCrop`."""
    pairs = [(name, in_words(name)) for name in dataset.class_names]
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    if not changed:
        return dataset
    note = f"class names in prompts: {first_pairs(*zip(*changed, strict=True))}"
    return replace(dataset, words=tuple(words for _, words in pairs), notes=(*dataset.notes, note))


def _known_name(text: str) -> str | None:
    """The dataset of that name; `EuroSAT` is `eurosat` where no folder is called so."""
    if text in DATASET_NAMES:
        return text
    plain = text.lower().replace("-", "_")
    return plain if plain in DATASET_NAMES and not _exists(Path(text)) else None


def _load_digits(
    split_file: Path | None, templates: tuple[str, ...] | None, class_names: ClassNames
) -> Dataset:
    if split_file is not None:
        raise InputError("digits has no image files, so no split file can name them.")
    from cafe.datasets.digits import load_digits

    digits = load_digits(templates or prompts.templates_for("digits"))
    names = choose_names(dict(enumerate(digits.class_names)), class_names, "digits")
    notes = pairs_in_words(digits.class_names, names, class_names)
    return replace(digits, class_names=names, notes=tuple(notes))


def _existing_path(text: str, download: bool) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # "~nobody"
        path = Path(text)
    if text and _exists(path):
        if not download:
            return path
        raise InputError(
            f"'{text}' cannot be downloaded; only these can: "
            f"{', '.join(row.name for row in BY_NAME.values() if row.torchvision)}."
        )
    if "/" in text or text.startswith((".", "~")) or text.lower().endswith((*SUFFIXES, ".json")):
        raise DatasetError(f"no such folder or manifest: {quote(text)}; check the path.")
    hint = "Or give a folder of images or a manifest (.csv, .jsonl)."
    raise UnknownNameError("dataset", quote(text)[1:-1], DATASET_NAMES, hint)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or it holds a NUL
        return False


def short_name(path: Path) -> str:
    """Name of a dataset that is a folder or a manifest."""
    if path.name in ("", ".."):
        path = path.resolve()
    return escape_bytes(path.name if path.is_dir() else path.stem) or "root"


def _read_path(
    path: Path, data_root: Path | None, split_file: Path | None, class_names: ClassNames
) -> _Source:
    """Read a folder, with the split file that lies in it if there is one, or a manifest."""
    if path.is_dir():
        split_file = split_file or _split_file_in(path)
        if split_file is None:
            return _Source(*read_folder(path, class_names), path)
        images, words = _read_split(split_file, path, class_names)
        roots = [path, *(path / name for name in subfolders(path))]
        return _Source(images, words, best_root(roots, images))
    if path.suffix.lower() == ".json":
        raise InputError(
            f"{path} is a file; name the folder of its images, with this as split_file=."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is neither a folder nor a manifest ({' or '.join(SUFFIXES)}).")
    if split_file is not None:
        raise InputError(f"{path} and {split_file} both give a split; name one of them.")
    root = data_root if data_root is not None else path.parent
    return _Source(*read_manifest(path, root, class_names), root)


def listed_names(path: Path, class_names: ClassNames = None) -> tuple[str, ...]:
    """Names of the classes of a folder of class folders or of a list, whose images may be missing.

    Raises
    ------
    DatasetError
        If it cannot be read.
    """
    if path.is_dir():
        return tuple(read_folder(path, class_names)[0].class_names)
    return tuple(_read_split(path, path.parent, class_names)[0].class_names)


def _split_file_in(folder: Path) -> Path | None:
    """The split file that lies in a folder of images, if there is just one."""
    files = sorted(path for path in folder.glob("split_*.json") if path.is_file())
    if len(files) > 1:
        raise InputError(
            f"{folder} has {len(files)} split files ({quote_some(path.name for path in files)}); "
            "choose one with split_file=."
        )
    return files[0] if files else None


def _read_split(path: Path, root: Path, class_names: ClassNames) -> tuple[ImageList, str]:
    """Read a split that the user names: CoOp's JSON, or a manifest."""
    if path.suffix.lower() in SUFFIXES:
        return read_manifest(path, root, class_names)
    return read_coop_split(path, class_names), f"split file {path.name}"


def _require_images(row: KnownDataset, data_root: Path, download: bool) -> None:
    """Download the images if that is asked for and needed; raise if there are none."""
    if download and not any(any(root.iterdir()) for root in image_roots(row, data_root)):
        download_known(row, data_root)
    if image_roots(row, data_root):
        return
    looked_in = [data_root / folder / row.image_folders[0] for folder in row.folders]
    advice = how_to_get(row, data_root)
    if row.torchvision:
        advice = f"pass download=True, or {advice}"
    raise DatasetError(f"{row.name} is not in {' or '.join(map(str, looked_in))}; {advice}.")


def _read_known(
    row: KnownDataset,
    data_root: Path,
    split_file: Path | None,
    class_names: ClassNames,
    allow_missing: bool,
) -> _Source:
    roots = image_roots(row, data_root)
    if split_file is not None:
        images, words = _read_split(split_file, roots[0], class_names)
        return _Source(images, words, best_root(roots, images))
    images, words = read_known(row, data_root, class_names)
    count = len(images.class_names)
    if count != row.classes:
        if not allow_missing:
            raise DatasetError(
                f"{row.name} has {row.classes} classes but {count} {verb(count, 'were')} found; "
                "complete it, name a split file (split_file=), or allow missing images "
                "(allow_missing=True)."
            )
        words += f"; {count} of {row.classes} classes found"
    return _Source(images, words, best_root(roots, images))
