"""Boxes on images, as columns: what every reader of box files gives; knows no disk, no format."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import clean_path, name_fault, quote, quote_some
from cafe.errors import DatasetError, counted

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes on images, in the order of their file.

    Attributes
    ----------
    where : str
        The file or folder that they were read from, for messages.
    images : tuple of str
        Paths with forward slashes, as the file names them; below the root, once `place_boxes` has
        found them. Images without a box are among them. (M,)
    image : ndarray
        Index of each box into `images`. (B,) int64
    xywh : ndarray
        Left, top, width and height in pixels of the upright image; shares of its sides where
        `is_relative`. (B, 4) float64
    labels : ndarray
        Index into `class_names`, -1 for none. (B,) int64
    class_names : tuple of str
        (C,)
    box_ids : ndarray
        The file's own number of each box (COCO's annotation id), else its row from 0. (B,) int64
    areas : ndarray
        In square pixels: the file's (of the object in the box), else width times height. (B,)
        float64
    is_crowd, is_difficult : ndarray
        COCO's `iscrowd` and Pascal VOC's `difficult`. (B,) bool
    image_ids : ndarray
        COCO's, of which two files may have the same; else the row from 0. (M,) int64
    category_ids : ndarray
        COCO's, else the label. (C,) int64
    sizes : ndarray
        Width and height of each image as the file says, 0 where it does not. (M, 2) int64
    splits : tuple of str, or None
        "train", "val" or "test" of each image, "" of one that is in no list; None where the file
        says nothing of splits. (M,)
    scores : ndarray or None
        A detector's confidence. (B,) float64
    is_relative : bool
        Whether `xywh` holds shares of the image's sides, as in YOLO's files.
    notes : tuple of str
        What was left out or assumed, a line each.
    """

    where: str
    images: tuple[str, ...]
    image: NDArray[np.int64]
    xywh: NDArray[np.float64]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    box_ids: NDArray[np.int64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    is_difficult: NDArray[np.bool_]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    splits: tuple[str, ...] | None = None
    scores: NDArray[np.float64] | None = None
    is_relative: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each box in its image, from 0 in the order of the file. (B,) int64"""
        order = np.argsort(self.image, kind="stable")
        counts = np.bincount(self.image, minlength=len(self.images))
        starts = np.cumsum(counts) - counts
        numbers = np.empty(len(self), np.int64)
        numbers[order] = np.arange(len(self)) - starts[self.image[order]]
        return numbers

    def take(self, rows: NDArray[Any]) -> Boxes:
        """Some of the boxes, by their rows or by a mask; all images stay."""
        columns = ("image", "xywh", "labels", "box_ids", "areas", "is_crowd", "is_difficult")
        chosen = {name: getattr(self, name)[rows] for name in columns}
        scores = None if self.scores is None else self.scores[rows]
        return replace(self, scores=scores, **chosen)


@dataclass
class BoxColumns:
    """Columns that a reader fills, box by box: a million boxes are 90 MB."""

    image: array[int] = field(default_factory=lambda: array("q"))
    xywh: array[float] = field(default_factory=lambda: array("d"))  # four for each box
    labels: array[int] = field(default_factory=lambda: array("q"))
    box_ids: array[int] = field(default_factory=lambda: array("q"))
    areas: array[float] = field(default_factory=lambda: array("d"))  # NaN: width times height
    is_crowd: array[int] = field(default_factory=lambda: array("b"))
    is_difficult: array[int] = field(default_factory=lambda: array("b"))
    scores: array[float] = field(default_factory=lambda: array("d"))  # NaN: none

    def boxes(
        self,
        where: str,
        images: Sequence[str],
        class_names: Sequence[str],
        *,
        image_ids: Sequence[int] | None = None,
        category_ids: Sequence[int] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        **more: Any,
    ) -> Boxes:
        """The boxes, checked; columns that were not filled get what `Boxes` says.

        Raises
        ------
        DatasetError
            If a number is not finite, an image or a box is given twice, a path leaves the root, or
            a class has no usable name.
        """
        count, classes = len(self.image), len(class_names)
        xywh = np.array(self.xywh, np.float64).reshape(-1, 4)
        images = _checked_images(images, where)
        _check_names(class_names, where)
        _check_finite(xywh, images, self.image, where)
        ids = np.array(self.box_ids or range(count), np.int64)
        _check_once(ids, "box id", where)
        with np.errstate(over="ignore"):
            products = xywh[:, 2] * xywh[:, 3]
        areas = np.array(self.areas or products, np.float64)
        scores = np.array(self.scores, np.float64)
        image_numbers = np.array(range(len(images)) if image_ids is None else image_ids, np.int64)
        _check_once(image_numbers, "image id", where)
        own = np.array(range(classes) if category_ids is None else category_ids, np.int64)
        _check_once(own, "category id", where)
        return Boxes(
            where=where,
            images=images,
            image=np.array(self.image, np.int64),
            xywh=xywh,
            labels=np.array(self.labels, np.int64),
            class_names=tuple(class_names),
            box_ids=ids,
            areas=np.where(areas >= 0, areas, products),
            is_crowd=np.array(self.is_crowd or [0] * count, np.bool_),
            is_difficult=np.array(self.is_difficult or [0] * count, np.bool_),
            image_ids=image_numbers,
            category_ids=own,
            sizes=np.array(sizes or np.zeros((len(images), 2)), np.int64).reshape(-1, 2),
            scores=scores if len(scores) and np.isfinite(scores).all() else None,
            **more,
        )


def _checked_images(images: Sequence[str], where: str) -> tuple[str, ...]:
    cleaned = tuple(clean_path(image, where) for image in images)
    if len(set(cleaned)) < len(cleaned):
        twice = [image for image, count in Counter(cleaned).items() if count > 1]
        raise DatasetError(
            f"{where}: {counted(len(twice), 'image', 'are')} listed twice: {quote_some(twice)}; "
            "list each once."
        )
    return cleaned


def _check_names(class_names: Sequence[str], where: str) -> None:
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{where}: a category has no name ({quote(name)}); give it one.")
        if fault := name_fault(name):
            raise DatasetError(f"{where}: {fault}.")
    twice = [name for name, count in Counter(class_names).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{where}: {counted(len(twice), 'name', 'are')} of two categories: {quote_some(twice)};"
            " rename one of them."
        )


def _check_finite(
    xywh: NDArray[np.float64], images: Sequence[str], image: Sequence[int], where: str
) -> None:
    bad = np.flatnonzero(~np.isfinite(xywh).all(axis=1))
    if bad.size:
        row = int(bad[0])
        raise DatasetError(
            f"{where}: {counted(bad.size, 'box', 'have')} numbers that are not finite (the first: "
            f"{xywh[row].tolist()} of {quote(images[image[row]])}); repair or remove them."
        )


def _check_once(numbers: NDArray[np.int64], what: str, where: str) -> None:
    found, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise DatasetError(
            f"{where}: {counted(int((counts > 1).sum()), what, 'are')} given twice: "
            f"{quote_some(found[counts > 1].tolist())}; give each once."
        )
