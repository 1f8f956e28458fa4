"""Small pictures of a gallery's images, where their files are at hand."""

from __future__ import annotations

import re
import shlex
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from cafe.datasets.dataset import Dataset
from cafe.datasets.load import DATASET_NAMES, load_dataset
from cafe.datasets.open_image import open_image
from cafe.datasets.thumbnails import open_item, small_jpeg
from cafe.errors import CafeError, unescape_bytes
from cafe.features.task import boxes_by_id
from cafe.serve.gallery import UNLABELLED, Gallery

_LISTED = re.compile(r"(?:manifest|split file) (.+?)(?:, which has no splits; .*)?$", re.DOTALL)
_LOOKED_FOR = 100  # images, of which one is enough: the first may have been moved
_KEPT = 32 << 20  # bytes of pictures in memory: about 6,000 small ones
_ENTRY = 200  # bytes of a picture beside its own, and of one that is not there


class Pictures:
    """JPEGs of images by their row.

    Parameters
    ----------
    gallery : Gallery
    source : Path or str or None
        What the dataset was loaded from: the folder of its images, or what `cafe train` took. None
        tries the folders that `command` names, and what ships with cafe.
    command : str
        The command that made the model.
    """

    def __init__(self, gallery: Gallery, source: Path | str | None, command: str = "") -> None:
        self._gallery = gallery
        self._boxes = boxes_by_id(gallery.cache, set(gallery.ids))
        self.dataset: Path | None = None
        """What `cafe relabel` changes, where it is known: the folder, or the list, of images."""
        self._open: Callable[[int], Any] | None = self._find(source, command)
        self.jpeg = _Kept(self._jpeg)

    @property
    def at_hand(self) -> bool:
        """Whether the files of the dataset were found."""
        return self._open is not None

    def _file(self, name: str) -> str:
        """The image of an item, which is one, or a box on one."""
        return name.rpartition("#")[0] if name in self._boxes else name

    def _find(self, source: Path | str | None, command: str) -> Callable[[int], Any] | None:
        gallery = self._gallery
        name = str(source) if source is not None else gallery.cache.header.dataset
        words = _paths(command)
        if source is not None and Path(source).is_dir():
            self.dataset = self._to_relabel(Path(source), words)
            return self._in_folder(Path(source))
        if source is not None:
            self.dataset = self._to_relabel(None, [Path(source), *words])
            return _in_dataset(gallery, load_dataset(name, allow_missing=True))
        for word in words:  # first: a user's folder may be called `digits`
            folder = word if word.is_dir() else word.parent
            if any((folder / self._file(name)).is_file() for name in gallery.ids[:_LOOKED_FOR]):
                self.dataset = self._to_relabel(folder, words)
                return self._in_folder(folder)
        if name in DATASET_NAMES:
            with suppress(CafeError):
                return _in_dataset(gallery, load_dataset(name, allow_missing=True))
        return None

    def _to_relabel(self, folder: Path | None, words: Sequence[Path]) -> Path | None:
        """The list that the dataset was read from, where it was one; else its folder."""
        listed = _LISTED.match(self._gallery.cache.header.source)
        if listed is None:
            return folder
        lists = [*words, *([folder / listed[1]] if folder is not None else [])]
        return next((path for path in lists if path.name == listed[1] and path.is_file()), None)

    def _in_folder(self, root: Path) -> Callable[[int], Any]:
        def opener(row: int) -> Any:
            name = self._gallery.ids[row]
            return open_item(root, name, self._boxes.get(name))

        return opener

    def _jpeg(self, row: int, edge: int) -> bytes | None:
        """A JPEG; None where the image is not at hand or cannot be read."""
        try:
            if self._gallery.splits[row] == UNLABELLED:
                image: Any = open_image(Path(self._gallery.ids[row]))
            else:
                image = self._open(row) if self._open else None
            if image is None:
                return None
            with image:
                return small_jpeg(image, edge)
        except Exception:
            return None


class _Kept:
    """The pictures that were asked for last, up to so many bytes of them."""

    def __init__(self, make: Callable[[int, int], bytes | None], most: int = _KEPT) -> None:
        self._make, self._most, self.bytes = make, most, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()

    def __call__(self, row: int, edge: int) -> bytes | None:
        with self._lock:
            if (row, edge) in self._kept:
                self._kept.move_to_end((row, edge))
                return self._kept[row, edge]
        made = self._make(row, edge)
        with self._lock:
            if (row, edge) not in self._kept:  # another thread may have made it meanwhile
                self._kept[row, edge] = made
                self.bytes += _ENTRY + len(made or b"")
            while self.bytes > self._most:
                self.bytes -= _ENTRY + len(self._kept.popitem(last=False)[1] or b"")
        return made


def _in_dataset(gallery: Gallery, dataset: Dataset) -> Callable[[int], Any]:
    items = {(s, item.id): item for s, each in dataset.splits.items() for item in each}

    def opener(row: int) -> Any:
        item = items.get((gallery.splits[row], gallery.ids[row]))
        return dataset.open_image(item) if item is not None else None

    return opener


def class_names_in(command: str) -> list[str]:
    """The option for other names of the classes, as a command has it; else nothing."""
    option, words = "--class-names", _words(command)
    pairs = [[option, after] for word, after in pairwise(words) if word == option]
    joined = [[word] for word in words if word.startswith(f"{option}=")]
    return [*pairs, *joined, []][0]


def _paths(command: str) -> list[Path]:
    """Folders and files that a command names."""
    return [path for path in map(Path, _words(command)) if _exists(path)]


def _words(command: str) -> list[str]:
    try:
        return [unescape_bytes(word) for word in shlex.split(command)[1:]]
    except ValueError:  # a quote that is not closed
        return []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or it holds a NUL
        return False
