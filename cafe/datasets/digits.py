"""`digits`: the 1,797 handwritten digits that come with scikit-learn, with a split of ours.

The digits are the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, 1998): 8 x 8 pixels, 17 grey levels. Shown as dark ink on white paper.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cafe.datasets.dataset import Dataset, Item

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_PER_CLASS, VAL_PER_CLASS = 60, 20  # the rest, 94 to 103 a class, is the test set


@dataclass(frozen=True)
class Digits(Dataset):
    """The digits in memory; an id is the row in scikit-learn's array."""

    pixels: NDArray[np.uint8] = field(
        default_factory=lambda: np.empty((0, 8, 8), np.uint8), repr=False
    )

    def open_image(self, item: Item) -> Image.Image:
        """Open one digit as an 8 x 8 grey image."""
        from PIL import Image

        return Image.fromarray(self.pixels[int(item.id)])


def _shuffled(rows: NDArray[np.intp]) -> list[int]:
    """Order rows by a hash of their number: fixed for ever, whatever the library's generators."""
    return sorted(rows.tolist(), key=lambda row: hashlib.sha256(b"digits %d" % row).digest())


def load_digits(templates: tuple[str, ...]) -> Digits:
    """Load the digits with their fixed split: 600 train, 200 val, 997 test.

    Parameters
    ----------
    templates : tuple of str
        Prompt templates.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    pixels = np.rint(255 - bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for label in range(len(CLASS_NAMES)):
        rows = _shuffled(np.flatnonzero(bunch.target == label))
        cuts = (TRAIN_PER_CLASS, TRAIN_PER_CLASS + VAL_PER_CLASS)
        parts = (rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :])
        for split, part in zip(splits, parts, strict=True):
            splits[split] += [Item(f"{row:04d}", label, 64) for row in part]
    return Digits(
        name="digits",
        class_names=CLASS_NAMES,
        splits={name: tuple(items) for name, items in splits.items()},
        templates=templates,
        root=None,
        source="scikit-learn's digits; cafe's split, 60 train and 20 val images a class",
        pixels=pixels,
    )
