"""Datasets of the Hugging Face Hub, through the library `datasets`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cafe.datasets.columns import Columns, choose_columns, key_of
from cafe.datasets.image_list import SPLIT_NAMES, Entry
from cafe.datasets.left_out import LeftOut
from cafe.datasets.packed_dataset import Place, Row, Stamp
from cafe.errors import DatasetError, ImageError, InputError, how_to_install, raise_as

PREFIX = "hf:"


@dataclass(frozen=True)
class HubSplit:
    """One split, with its images as bytes."""

    rows: Any
    image: str

    def read(self, place: int, size: int) -> bytes:  # noqa: ARG002
        """The bytes of the image in a row."""
        with raise_as(ImageError, f"cannot read row {place}", of=Exception):
            value = self.rows[place][self.image]
            if value["bytes"] is not None:
                return bytes(value["bytes"])
            with open(value["path"], "rb") as stream:  # noqa: PTH123 - it may be a URL's copy
                return stream.read()

    def stamp(self) -> Stamp:
        """A digest of what the library says of the content."""
        text = str(getattr(self.rows, "_fingerprint", ""))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"), 0, 0


def read_hub(name: str, left_out: LeftOut) -> list[Row]:
    """List the labelled images of `NAME` or `NAME:CONFIG`.

    Raises
    ------
    InputError
        If the library is not installed, or no name is given.
    DatasetError
        If there is no such dataset, or it has no column of images or of labels.
    """
    repository, _, config = name.partition(":")
    if not repository:
        raise InputError("'hf:' names no dataset; write hf:NAME or hf:NAME:CONFIG.")
    problem, advice = (
        "datasets of the Hub need the library 'datasets'",
        how_to_install("hub"),
    )
    with raise_as(InputError, problem, advice, ImportError):
        library = importlib.import_module("datasets")
    # it raises anything: no network, no such name, several configurations
    problem, advice = f"cannot load '{name}' from the Hub", "check the name and the network"
    with raise_as(DatasetError, problem, advice, Exception):
        loaded = library.load_dataset(repository, config or None)
    splits = loaded if isinstance(loaded, Mapping) else {"": loaded}
    return [row for split in splits for row in _rows(library, name, split, splits, left_out)]


def _rows(
    library: Any, name: str, split: str, splits: Mapping[str, Any], left_out: LeftOut
) -> Iterator[Row]:
    columns = _columns(f"'{name}' of the Hub", splits[split].features)
    known = SPLIT_NAMES.get(split.lower(), "")
    if not known and len(splits) > 1:
        left_out.add("splits that are none of train, val and test", split)
        return
    if {*splits} <= {split} and known == "train":
        known = ""  # cafe makes a split of what has none
    feature = splits[split].features[columns.label]
    names = getattr(feature, "names", None) or []
    rows = splits[split].cast_column(columns.image, library.Image(decode=False))
    pack = HubSplit(rows, columns.image)
    for row, label in enumerate(rows[columns.label]):
        key = key_of(label, f"'{name}', {split}, row {row}")
        if key is None:
            left_out.add("rows without a label", split)
            continue
        called = names[key] if isinstance(key, int) and key < len(names) else None
        image = f"{split or 'rows'}/{row:08d}"
        yield Row(Entry(known, image, key, called), Place(pack, row, 0))


def _columns(where: str, features: Mapping[str, Any]) -> Columns:
    kinds = {name: _kind(feature) for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    plain = [n for n, kind in kinds.items() if kind.startswith(("int", "string", "large_string"))]
    return choose_columns(kinds, images, classes or plain, where)._replace(split=None)


def _kind(feature: Any) -> str:
    """`Image`, `ClassLabel`, or the type of a plain value."""
    return (
        str(getattr(feature, "dtype", ""))
        if type(feature).__name__ == "Value"
        else type(feature).__name__
    )
