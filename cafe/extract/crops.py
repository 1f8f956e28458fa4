"""Crops of boxes: each image is decoded once for all of its boxes, which follow each other."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.datasets.boxes.dataset import BoxDataset
from cafe.datasets.dataset import Dataset, Item
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.preprocess import Preprocess
from cafe.errors import DatasetError
from cafe.extract.decode import DecodedImage, decode_item_for
from cafe.store import BOX, Block

EMPTY = "its box is empty or outside of the image"


def boxes_key(dataset: Dataset) -> dict[str, Any]:
    """What the key of a cache says of the crops; nothing where items are images."""
    if not isinstance(dataset, BoxDataset):
        return {}
    return {"boxes": {"context": list(dataset.context), "padding": "square, mean colour"}}


def with_boxes(dataset: BoxDataset, blocks: Iterator[Block]) -> Iterator[Block]:
    """Blocks with what the box file says now: flags may have changed where no feature has."""
    for block in blocks:
        yield replace(block, boxes=_box_rows(dataset, block.ids))


def _box_rows(dataset: BoxDataset, ids: Sequence[str]) -> NDArray[np.void]:
    rows = np.zeros(len(ids), BOX)
    for name, column in dataset.columns(ids).items():
        rows[name] = column
    return rows


class _Whole(Preprocess):
    """Keeps all pixels of an image, upright."""

    def __init__(self) -> None:
        self.size, self.decode = (0, 0), "exact"

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image)


@dataclass
class _Entry:
    """An image that is decoded by the first thread that asks for it."""

    busy: threading.Lock = field(default_factory=threading.Lock)
    image: DecodedImage | None = None


class CropDecoder:
    """Cuts the crops of boxes; called as `decode_item`.

    Parameters
    ----------
    images : int
        Decoded images that are kept: one for each thread, and one.
    """

    def __init__(self, images: int) -> None:
        self._most = images
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(
        self,
        dataset: Dataset,
        item: Item,
        preprocess: Preprocess,
        _augmentation: Augmentation | None = None,
        *,
        strict: bool = False,
    ) -> DecodedImage:
        """The encoder's pixels of the crops of a box. (V, S, S, 3)"""
        assert isinstance(dataset, BoxDataset)  # no other has crops  # noqa: S101
        whole = self._decoded(dataset, item, strict=strict)
        state = whole.state and dataset.state_of_box(item.id, whole.state)
        if whole.views is None:
            return whole._replace(state=state)
        box = dataset.box(item.id)
        if min(box[2:]) > 0:
            crops = [crop_square(whole.views[0], box, c, preprocess) for c in dataset.context]
            return DecodedImage(np.stack(list(map(preprocess.pixels, crops))), "", state)
        if strict:
            raise DatasetError(
                f"box '{item.id}' of '{dataset.name}' cannot be used ({EMPTY}); remove it, or go "
                "on without it with on_error='skip'."
            )
        return DecodedImage(None, EMPTY, state)

    def _decoded(self, dataset: BoxDataset, item: Item, *, strict: bool) -> DecodedImage:
        name = dataset.image_of(item.id)
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            self._entries.move_to_end(name)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.busy:
            if entry.image is None:
                entry.image = decode_item_for(dataset, item, [_Whole()], strict=strict)[0]
            return entry.image


def crop_square(
    pixels: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    context: float,
    preprocess: Preprocess,
) -> Image.Image:
    """What of an image lies in a box, in the middle of a square of the encoder's mean colour.

    Parameters
    ----------
    pixels : ndarray
        (H, W, 3)
    box : tuple
        Left, top, width and height.
    context : float
        Sides of the crop, in those of the box. What is outside of the image is padded.
    preprocess : Preprocess
        The encoder's.
    """
    across = _Span.of(box[0], box[2], context)
    down = _Span.of(box[1], box[3], context)
    side = max(across.length, down.length)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = np.round(255 * np.asarray(preprocess.config["mean"], np.float64))
    inside = pixels[down.inside, across.inside]
    row, column = down.place(side), across.place(side)
    square[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return Image.fromarray(square)


@dataclass(frozen=True)
class _Span:
    """Pixels of a crop along one side of the image, from `first` to before `last`."""

    first: int
    last: int

    @classmethod
    def of(cls, start: float, length: float, context: float) -> _Span:
        wide = length * context
        left = start + (length - wide) / 2
        # a hair less, so that 0.1 + 0.2 does not cost a pixel; of a sliver, one pixel
        first = math.floor(left + 1e-6)
        return cls(first, max(math.ceil(left + wide - 1e-6), first + 1))

    @property
    def length(self) -> int:
        return self.last - self.first

    @property
    def inside(self) -> slice:
        return slice(max(self.first, 0), self.last)

    def place(self, side: int) -> int:
        """Where the part that is inside of the image begins in a square of this side."""
        return (side - self.length) // 2 + max(self.first, 0) - self.first
