"""Datasets whose images lie in larger files: members of archives, and rows of tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cafe.datasets.dataset import Dataset, Item
from cafe.datasets.image_list import SPLIT_NAMES, ClassNames, Entry, make_image_list
from cafe.datasets.left_out import LeftOut
from cafe.datasets.make_split import SPLIT_BY_CAFE, complete_splits
from cafe.datasets.open_image import NO_STATE, STATE, FileState, open_image, quick_state
from cafe.errors import DatasetError, ImageError

if TYPE_CHECKING:
    from PIL import Image

Stamp = tuple[int, int, int]
"""Times and inode of a file, or what stands for them: while it is the same, so is the content."""


def file_stamp(path: Path) -> Stamp:
    """Times and inode of a file."""
    return quick_state(path)[1:]


class PackFile(Protocol):
    """A file that holds images."""

    def read(self, place: int, size: int) -> bytes:
        """The bytes of an image."""

    def stamp(self) -> Stamp:
        """What changes where the file does."""


class Place(NamedTuple):
    """Where an image lies: in a file, from a byte or in a row, and how many bytes it has."""

    pack: PackFile
    place: int
    size: int


@dataclass(frozen=True)
class PackedDataset(Dataset):
    """A dataset whose images are no files of their own.

    Attributes
    ----------
    places : mapping of str to Place
        Id of an image -> where it lies.
    """

    places: Mapping[str, Place] = field(default_factory=dict, repr=False)

    @property
    def knows_content(self) -> bool:
        """Whether it can be told of an image if its content has changed."""
        return True

    def quick_state(self, image: str) -> tuple[int, int, int, int]:
        """Size of an image, and times and inode of the file that it lies in."""
        pack, _, size = self.places[image]
        try:
            return size, *pack.stamp()
        except OSError:
            return NO_STATE[1:]

    def state(self, image: str) -> FileState:
        """The state of an image's content, which is read for it."""
        try:
            return self._read(image)[1]
        except (OSError, ImageError):
            return NO_STATE

    def open_image(self, item: Item) -> Image.Image:
        """Open an image, not yet decoded."""
        content, state = self._read(item.id)
        image = open_image(content)
        image.info[STATE] = state
        return image

    def _read(self, image: str) -> tuple[bytes, FileState]:
        pack, place, size = self.places[image]
        quick = self.quick_state(image)
        content = pack.read(place, size)
        return content, FileState(hashlib.sha256(content).digest(), *quick)


class Row(NamedTuple):
    """An image with its label, as a source lists it: the split is "" where it is not said."""

    entry: Entry
    place: Place


def packed_dataset(
    rows: Sequence[Row],
    *,
    name: str,
    source: str,
    templates: tuple[str, ...],
    class_names: ClassNames,
    left_out: LeftOut,
) -> PackedDataset:
    """Make a dataset of images that lie in larger files.

    Parameters
    ----------
    rows : sequence of Row
        All with a split, or none.
    name, templates, class_names
        As for `cafe.datasets.load_dataset`.
    source : str
        What they were read from, in words.
    left_out : LeftOut
        What was left out.

    Raises
    ------
    DatasetError
        If there are none, only some have a split, or their labels do not fit together.
    """
    entries = [row.entry for row in rows]
    if any(isinstance(entry.key, str) for entry in entries):  # names, some of which are numbers
        entries = [entry._replace(key=str(entry.key)) for entry in entries]
    if not entries:
        raise DatasetError(f"{source} has no labelled images; {'; '.join(left_out.lines())}.")
    entries, is_split_made = complete_splits(entries, source, "images")
    words = f"{source}; {SPLIT_BY_CAFE}" if is_split_made else f"{source}, with its splits"
    images = make_image_list(entries, source, class_names)
    places = {row.entry.path: row.place for row in rows}
    splits = {
        split: tuple(Item(path, label, places[path].size) for path, label in pairs)
        for split, pairs in images.rows.items()
    }
    items = {item.id: item for each in splits.values() for item in each}
    dataset = PackedDataset(
        name=name,
        class_names=images.class_names,
        splits=splits,
        templates=templates,
        root=None,
        source=words,
        notes=(*images.notes, *left_out.lines()),
        places=places,
    )
    if not is_split_made:
        return dataset
    return replace(dataset, unsplit=tuple(items[entry.path] for entry in entries))


def split_word(name: str) -> str:
    """The split that the first word of a file's name says; "" where it says none."""
    word = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return SPLIT_NAMES.get(word[0], "") if word else ""
