"""A labelled set of images with its classes and splits; knows no encoder and no cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cafe.datasets.open_image import open_image
from cafe.errors import DatasetError, raw_name

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "test")


class Item(NamedTuple):
    """One labelled image.

    Attributes
    ----------
    id : str
        Unique in its split; for files, the path relative to the root with forward slashes.
    label : int
        Index into the dataset's `class_names`.
    size : int
        Bytes of the file: a cheap sign that the content has changed.
    """

    id: str
    label: int
    size: int


@dataclass(frozen=True)
class Dataset:
    """A labelled set of images.

    Attributes
    ----------
    name : str
        Short name, the folder of its caches.
    class_names : tuple of str
        Names as they go into prompts; a label is an index into them. (C,)
    splits : mapping of str to tuple of Item
        Keys are among "train", "val" and "test".
    templates : tuple of str
        Default prompt templates with one `{}` for the class name.
    root : Path or None
        Folder that the ids are relative to; None where the images are not files.
    source : str
        In words: which split this is and where it comes from.
    missing : tuple of str
        Files that the split names and the disk lacks (only with `allow_missing`).
    notes : tuple of str
        What was left out or assumed, a line each.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    templates: tuple[str, ...]
    root: Path | None
    source: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DatasetError(
                f"dataset '{self.name}' has {len(self.class_names)} class; a classifier needs at "
                "least 2."
            )
        if not any(self.splits.values()):
            raise DatasetError(f"dataset '{self.name}' has no images in {self.root}.")

    def open_image(self, item: Item) -> Image.Image:
        """Open the image of an item, not yet decoded.

        Parameters
        ----------
        item : Item
            One of this dataset's items.

        Returns
        -------
        PIL.Image.Image
            The image in its own mode and orientation.

        Raises
        ------
        OSError
            If the file is absent or no image.
        """
        if self.root is None:
            raise DatasetError(f"dataset '{self.name}' has no folder to read '{item.id}' from.")
        return open_image(self.root / item.id)

    def fingerprint(self) -> str:
        """SHA-256 over the class names and every split's ids, labels and sizes, in order."""
        digest = hashlib.sha256()
        for name in self.class_names:
            digest.update(f"class\0{name}\n".encode())
        for split in SPLITS:
            for item in self.splits.get(split, ()):
                digest.update(raw_name(f"{split}\0{item.id}\0{item.label}\0{item.size}\n"))
        return digest.hexdigest()

    def with_templates(self, templates: tuple[str, ...]) -> Dataset:
        """The same images under other prompt templates."""
        return replace(self, templates=templates)
