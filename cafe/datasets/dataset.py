"""A labelled set of images with its classes and splits; knows no encoder and no cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cafe.datasets.open_image import NO_STATE, FileState, open_image, quick_state, state_now
from cafe.errors import DatasetError, raw_name

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "test")
NO_LABEL = ("unlabelled", "unlabeled")
"""Classes of these names, in any case, hold images that have no label."""


def are_unlabelled(class_names: Sequence[str]) -> bool:
    """Whether no image of these classes has a label: they are a pool."""
    return all(name.lower() in NO_LABEL for name in class_names)


def check_labelled(name: str, class_names: Sequence[str]) -> None:
    """Refuse a dataset, or the cache of one, that has no labels to learn.

    Raises
    ------
    DatasetError
        If no image has a label.
    """
    if are_unlabelled(class_names):
        raise DatasetError(
            f"'{name}' has only images outside of any class folder; put the images of each class "
            "into a folder, or take them for a pool with pool=."
        )


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
        A label is an index into them. (C,)
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
    unsplit : tuple of Item
        Where cafe made the split: all images, in the order of their source. Else empty.
    words : tuple of str
        Names as they go into prompts, where some are others than `class_names`. (C,)
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    templates: tuple[str, ...]
    root: Path | None
    source: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unsplit: tuple[Item, ...] = ()
    words: tuple[str, ...] = ()

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
        return open_image(self._path(item.id))

    @property
    def knows_content(self) -> bool:
        """Whether it can be told of an image if its content has changed."""
        return self.root is not None

    @property
    def crops(self) -> int:
        """Crops of each item, the mean of whose features is the item's; 0 of whole images."""
        return 0

    def image_of(self, name: str) -> str:
        """The image that an item lies on, by their ids: itself, unless items are boxes."""
        return name

    def quick_state(self, image: str) -> tuple[int, int, int, int]:
        """Size, times and inode of the file that holds an image; zeros where there is none."""
        try:
            return quick_state(self._path(image))
        except OSError:
            return NO_STATE[1:]

    def state(self, image: str) -> FileState:
        """The state of an image's content, which is read for it."""
        return state_now(self._path(image))

    def _path(self, image: str) -> Path:
        if self.root is None:
            raise DatasetError(f"dataset '{self.name}' has no folder to read '{image}' from.")
        return self.root / image

    def fingerprint(self) -> str:
        """SHA-256 over the class names and every split's ids, labels and sizes, in order."""
        digest = hashlib.sha256()
        for name in self.class_names:
            digest.update(f"class\0{name}\n".encode())
        for split in SPLITS:
            for item in self.splits.get(split, ()):
                digest.update(raw_name(f"{split}\0{item.id}\0{item.label}\0{item.size}\n"))
        return digest.hexdigest()

    def without_items(self) -> Dataset:
        """The dataset with one item, for other processes; it may have millions."""
        split, items = next((name, items) for name, items in self.splits.items() if items)
        root = None if self.root is None else self.root.absolute()
        return replace(self, splits={split: items[:1]}, unsplit=(), root=root)

    def with_templates(self, templates: tuple[str, ...]) -> Dataset:
        """The same images under other prompt templates."""
        return replace(self, templates=templates)
