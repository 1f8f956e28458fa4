"""Boxes as a dataset, each an item of its own; which images they lie on decides their split."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.dataset import SPLITS, Dataset
from cafe.datasets.open_image import FileState, state_now

CONTEXT = (1.0, 1.5)
"""How much of a box's surroundings its crops show (ViLD, arXiv 2104.13921): sides, times these."""


@dataclass(frozen=True, eq=False)
class BoxDataset(Dataset):
    """A dataset whose items are boxes, called after their image: `a.jpg#0`, `a.jpg#1`.

    Attributes
    ----------
    boxes : Boxes
        On images that are there, in pixels.
    context : tuple of float
        Sides of an item's crops, in those of its box.
    unlabelled : BoxDataset or None
        Proposals without a label; the labels of its items mean nothing.
    """

    boxes: Boxes = None  # type: ignore[assignment]  # attributes before it have defaults
    context: tuple[float, ...] = CONTEXT
    unlabelled: BoxDataset | None = None

    @property
    def crops(self) -> int:
        """Crops of each item, the mean of whose features is the item's."""
        return len(self.context)

    def image_of(self, name: str) -> str:
        """The image that a box lies on."""
        return name.rpartition("#")[0]

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an item. Those of an empty box are 0."""
        left, top, width, height = self.boxes.xywh[self._row(name)].tolist()
        return left, top, width, height

    def columns(self, ids: Sequence[str]) -> dict[str, NDArray[Any]]:
        """What the box file says of some items, by the names that a cache has for it. (n, ...)"""
        rows, boxes = [self._row(name) for name in ids], self.boxes
        return {
            "xywh": boxes.xywh[rows],
            "area": boxes.areas[rows],
            "box_id": boxes.box_ids[rows],
            "image_id": boxes.image_ids[boxes.image[rows]],
            "category_id": boxes.category_ids[boxes.labels[rows]],
            "is_crowd": boxes.is_crowd[rows],
            "is_difficult": boxes.is_difficult[rows],
        }

    def quick_state(self, image: str) -> tuple[int, int, int, int]:
        """As of the image's file, the inode mixed with the box."""
        size, mtime, ctime, inode = super().quick_state(image)
        return size, mtime, ctime, inode ^ self._mark(image)

    def state(self, image: str) -> FileState:
        """As of the image's file; digest and inode are mixed with the box."""
        path = self._path(image)
        return self.state_of_box(image, _state_of_file(path, super().quick_state(image)))

    def state_of_box(self, name: str, state: FileState) -> FileState:
        """The state of an item, of that of its image's file."""
        if not any(state.sha256):
            return state
        digest = hashlib.sha256(state.sha256 + self._geometry(name)).digest()
        return state._replace(sha256=digest, inode=state.inode ^ self._mark(name))

    def fingerprint(self) -> str:
        """SHA-256 over what a dataset's covers, and the boxes with their ids and flags."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for split in SPLITS:
            for column in self.columns([i.id for i in self.splits.get(split, ())]).values():
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def _path(self, image: str) -> Path:
        return super()._path(self.image_of(image))

    def _geometry(self, name: str) -> bytes:
        return np.array(self.box(name), "<f8").tobytes()

    def _mark(self, name: str) -> int:
        digest = hashlib.sha256(self._geometry(name)).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    @cached_property
    def _places(self) -> tuple[Mapping[str, int], NDArray[np.int64], NDArray[np.int64]]:
        """Index of each image, its first place, and the rows of the boxes, image by image."""
        counts = np.bincount(self.boxes.image, minlength=len(self.boxes.images))
        index = {image: place for place, image in enumerate(self.boxes.images)}
        return index, np.cumsum(counts) - counts, np.argsort(self.boxes.image, kind="stable")

    def _row(self, name: str) -> int:
        image, _, number = name.rpartition("#")
        index, starts, order = self._places
        return int(order[starts[index[image]] + int(number)])


@functools.lru_cache(maxsize=8)  # the boxes of an image follow each other
def _state_of_file(path: Path, _quick: tuple[int, int, int, int]) -> FileState:
    return state_now(path)
