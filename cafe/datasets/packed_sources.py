"""Finding and reading packed images: tar shards, Parquet files, datasets of the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from cafe.datasets.hub_dataset import PREFIX, read_hub
from cafe.datasets.image_list import ClassNames
from cafe.datasets.left_out import LeftOut
from cafe.datasets.packed_dataset import PackedDataset, packed_dataset
from cafe.datasets.parquet import holds_images, read_parquet
from cafe.datasets.shards import expand, read_shards
from cafe.errors import DatasetError, InputError

_TAR, _PARQUET = ".tar", ".parquet"


class PackedSource(NamedTuple):
    """Files that hold images, or the name of a dataset of the Hub."""

    text: str
    name: str
    paths: list[Path]


def find_packed_source(text: str) -> PackedSource | None:
    """What a text names, if it is a pattern of shards, a file of images, a folder of these, or hf:.

    Examples
    --------
    >>> find_packed_source("photos.csv") is None
    True
    """
    if text.startswith(PREFIX):
        return PackedSource(text, text.removeprefix(PREFIX), [])
    if re.search(r"\.(tar\.(gz|bz2|xz|zst)|tgz)$", text):
        raise InputError(f"'{text}' is a compressed archive; unpack it to .tar, or to a folder.")
    if not text.endswith((_TAR, _PARQUET)):
        paths = _packed_files_in(Path(text))
        return PackedSource(text, Path(text).resolve().name, paths) if paths else None
    paths = [Path(name).expanduser() for name in expand(text)]
    if any("*" in path.name for path in paths):
        paths = [found for path in paths for found in sorted(path.parent.glob(path.name))]
    if not paths:
        raise DatasetError(f"'{text}' names no file; check the path.")
    if text.endswith(_PARQUET):
        if missing := [path for path in paths if not path.is_file()]:
            raise DatasetError(f"no such file: '{missing[0]}'; check the path.")
        if len(paths) == 1 and not holds_images(paths[0]):
            return None  # a table of paths
    name = re.sub(r"[-_.]*(\{[^}]*\}|\*)[-_.]*", "", Path(text).stem)
    return PackedSource(text, name or Path(text).resolve().parent.name, paths)


def _packed_files_in(folder: Path) -> list[Path]:
    """The archives or Parquet files of a folder that holds nothing else that could be a dataset."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError):
        return []
    for suffix in (_TAR, _PARQUET):
        packs = [path for path in entries if path.suffix == suffix]
        if packs and not any(path.is_dir() for path in entries):
            return packs
    return []


def read_packed_source(
    packed: PackedSource,
    *,
    templates: tuple[str, ...],
    class_names: ClassNames,
    allow_missing: bool,
) -> PackedDataset:
    """Make a dataset of packed images; see `cafe.datasets.load_dataset`."""
    left_out = LeftOut()
    if not packed.paths:
        rows, source = read_hub(packed.name, left_out), f"{packed.text} of the Hugging Face Hub"
    elif packed.paths[0].suffix == _TAR:
        rows = read_shards(packed.paths, left_out, allow_missing=allow_missing)
        source = f"{len(packed.paths):,} tar shards of {packed.name}"
    else:
        rows = read_parquet(packed.paths, left_out)
        source = f"{len(packed.paths):,} Parquet files of {packed.name}"
    return packed_dataset(
        rows,
        name=packed.name.replace(":", "-"),
        source=source,
        templates=templates,
        class_names=class_names,
        left_out=left_out,
    )
