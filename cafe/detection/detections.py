"""Which boxes are detections, by a head's scores, and the COCO results that they become."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.matching import suppress
from cafe.datasets.boxes.proposals import BACKGROUND_NAME
from cafe.datasets.text_files import clean_name
from cafe.errors import InputError
from cafe.store.files import write_file


@dataclass(frozen=True)
class DetectOptions:
    """Which boxes become detections.

    Attributes
    ----------
    overlap : bool or None
        Whether classes may overlap: every class whose own score is high enough gives a detection.
        Else a box is one detection, of its likeliest class beside background. None: they may where
        the head was fitted so, by a sigmoid loss.
    min_score : float
        A detection scores at least this.
    nms : float or None
        Of two boxes of a class whose IoU is larger the worse one is dropped; None drops none.
    most : int
        Detections of an image at most; COCO looks at 100.
    """

    overlap: bool | None = None
    min_score: float = 0.05
    nms: float | None = None
    most: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score={self.min_score} must be from 0 to 1.")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise InputError(f"nms={self.nms} must be an IoU, 0 to 1.")
        if self.most < 1:
            raise InputError(f"max_per_image={self.most} must be at least 1.")


class ImageDetections(NamedTuple):
    """What was found on an image, the best first.

    Attributes
    ----------
    image : int
        Row of the image in the boxes that were asked about.
    rows : ndarray
        Rows of the boxes. (n,) int64
    classes : ndarray
        Indices into the head's class names. (n,) int64
    scores : ndarray
        (n,)
    is_likely : ndarray
        Whether the class is likelier than background and than every other class; where classes
        overlap, likelier than not. (n,) bool
    boxes : int
        How many boxes were looked at.
    reason : str
        Why the image cannot be read; "" where it can.
    """

    image: int
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_likely: NDArray[np.bool_]
    boxes: int = 0
    reason: str = ""


def background_of(class_names: Sequence[str]) -> int | None:
    """The index of the class that is no object; None where there is none."""
    names = list(class_names)
    return names.index(BACKGROUND_NAME) if BACKGROUND_NAME in names else None


def choose_detections(
    image: int,
    rows: NDArray[np.int64],
    xywh: NDArray[np.float64],
    scores: NDArray[np.floating[Any]],
    background: int | None,
    options: DetectOptions,
) -> ImageDetections:
    """The detections of an image.

    Parameters
    ----------
    image : int
    rows : ndarray
        Rows of its boxes. (n,)
    xywh : ndarray
        (n, 4)
    scores : ndarray
        Of every class. A box with a score that is not a number is left out. (n, C)
    background : int or None
        The class that is no object.
    options : DetectOptions
    """
    objects = np.array(scores, np.float64)
    if background is not None:
        objects[:, background] = -1.0
    objects[~np.isfinite(scores).all(axis=1)] = -1.0
    if options.overlap:
        boxes, classes = np.nonzero(objects >= options.min_score)
        is_likely = objects[boxes, classes] >= 0.5
    else:
        best = objects.argmax(axis=1)
        boxes = np.flatnonzero(objects.max(axis=1, initial=-1.0) >= options.min_score)
        classes = best[boxes]
        is_likely = scores[boxes].argmax(axis=1) == classes
    found: NDArray[np.float64] = objects[boxes, classes]
    if options.nms is None:
        order = np.argsort(-found, kind="stable")
    else:
        order = suppress(xywh[boxes], found, classes, options.nms)
    kept = order[: options.most]
    return ImageDetections(
        image, rows[boxes[kept]], classes[kept], found[kept], is_likely[kept], len(rows)
    )


def coco_categories(class_names: Sequence[str], like: Boxes | None) -> dict[int, int]:
    """The COCO category of each class that is an object, by its index.

    Those of `like` for the classes that it has, under names as `clean_name` makes them; for others
    the next free numbers, from 1.
    """
    known: dict[str, list[int]] = defaultdict(list)
    if like is not None:
        for name, category in zip(like.class_names, like.category_ids.tolist(), strict=True):
            known[clean_name(name)].append(category)
    free = itertools.count(max([0, *itertools.chain(*known.values())]) + 1)
    categories = {}
    for number, name in enumerate(class_names):
        if name != BACKGROUND_NAME:
            own = known[clean_name(name)]
            categories[number] = own.pop(0) if own else next(free)
    return categories


def coco_results(
    found: Iterable[ImageDetections],
    boxes: Boxes,
    image_ids: Sequence[int],
    categories: dict[int, int],
) -> Iterator[dict[str, Any]]:
    """Detections as COCO results: pixels and scores with as many digits as mean something."""
    for image in found:
        for row, number, score in zip(image.rows, image.classes, image.scores, strict=True):
            yield {
                "image_id": int(image_ids[image.image]),
                "category_id": categories[int(number)],
                "bbox": [round(float(value), 2) for value in boxes.xywh[row]],
                "score": round(float(score), 5),
            }


def write_results(path: Path, results: Iterable[dict[str, Any]]) -> int:
    """Write COCO results one by one, and put the file in its place when it is whole.

    Returns
    -------
    int
        How many.
    """
    count = 0
    with write_file(path) as stream:
        stream.write(b"[")
        for result in results:
            stream.write((b",\n" if count else b"\n") + json.dumps(result).encode())
            count += 1
        stream.write(b"\n]\n")
    return count
