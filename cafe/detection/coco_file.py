"""`cafe predict --boxes`: from a box file and a folder of images to COCO results and their AP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cafe.datasets.text_files import clean_name, distinct_names, quote_some
from cafe.detection.average_precision import (
    AveragePrecision,
    average_precision,
    import_pycocotools,
)
from cafe.detection.box_task import BoxTask, Note
from cafe.detection.detect import detect
from cafe.detection.detections import (
    DetectOptions,
    ImageDetections,
    coco_categories,
    coco_results,
    write_results,
)
from cafe.detection.draw import LabelledBox, save_drawing, unprintable
from cafe.errors import CafeError, InputError, counted, raise_as
from cafe.extract.encode import LoaderOptions
from cafe.inference.predictor import Predictor
from cafe.results.run_folders import check_output
from cafe.store.files import check_folder, lock_file


@dataclass
class Detected:
    """What `detect_file` did.

    Attributes
    ----------
    images, boxes, detections : int
        Images with boxes, boxes looked at, and detections written.
    categories : mapping of int to str
        COCO category -> class.
    skipped : mapping of str to str
        Images that cannot be read, with the reason.
    ap : AveragePrecision or None
        Where the truth was given.
    drawings : int
        Images that were drawn.
    """

    categories: Mapping[int, str]
    images: int = 0
    boxes: int = 0
    detections: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    ap: AveragePrecision | None = None
    drawings: int = 0

    @property
    def json(self) -> dict[str, Any]:
        """It as JSON values."""
        return {**vars(self), "ap": self.ap and self.ap.json}


def detect_file(
    predictor: Predictor,
    task: BoxTask,
    output: Path,
    *,
    options: DetectOptions | None = None,
    loader: LoaderOptions | None = None,
    draw: Path | None = None,
    note: Note | None = None,
) -> Detected:
    """Write the detections of a head as COCO results; score and draw them.

    Parameters
    ----------
    predictor : Predictor
    task : BoxTask
    output : Path
        The JSON file; one of that name is replaced when the new one is whole.
    options, loader
        As of `detect`.
    draw : Path, optional
        Folder for a JPEG of every image, under its own path: boxes whose class is likelier than
        background, with label and score.
    note : callable, optional
        Called with each line that is good to know.

    Raises
    ------
    InputError
        If the truth is given and pycocotools is not there; nothing is read.
    CafeError
        If a file cannot be written; what was there stays.
    """
    tell = note or (lambda _: None)
    if task.truth is not None:
        import_pycocotools()
    check_output(output, ".json")
    if any(file.resolve() == output.resolve() for file in task.files):
        raise InputError(f"'{output}' is a file that is read; choose another with output=.")
    if draw is not None and draw.resolve() == task.root.resolve():
        raise InputError(f"draw='{draw}' is the folder of the images; choose another.")
    saved = predictor.saved
    names = distinct_names(saved.class_names)
    categories = coco_categories(saved.class_names, task.like)
    done = Detected({number: names[place] for place, number in categories.items()})
    _tell_of_classes(tell, task, saved.class_names, done.categories)
    if draw is not None and (odd := unprintable(names)):
        tell(f"no font has all letters of {quote_some(odd)}; drawings give the class's number.")
    found = _watched(detect(predictor, task.boxes, task.root, options, loader), task, done)
    if draw is not None:
        found = _drawn(found, task, names, draw, done)
    results = coco_results(found, task.boxes, task.image_ids, categories)
    kept: list[dict[str, Any]] = []
    if task.truth is not None:
        results = _kept(results, kept)
    problem = raise_as(CafeError, f"cannot write '{output}'", "choose another with output=")
    with problem:
        check_folder(output.absolute().parent)
        with lock_file(output):
            done.detections = write_results(output, results)
    if len(done.skipped) == done.images:
        tell(f"none of {counted(done.images, 'image')} could be read.")
    if task.truth is not None:
        done.ap = average_precision(task.truth, kept, task.judged)
    return done


def _tell_of_classes(
    tell: Note, task: BoxTask, names: Sequence[str], categories: Mapping[int, str]
) -> None:
    known = set(map(clean_name, names))
    if task.like is None or known.isdisjoint(map(clean_name, task.like.class_names)):
        listed = ", ".join(f"{number} {name}" for number, name in categories.items())
        tell(f"category ids: {listed}.")
    if task.truth is not None:
        # a class without a true box is not scored
        sought = [
            task.truth.class_names[n] for n in np.unique(task.truth.labels).tolist() if n >= 0
        ]
        unknown = [name for name in sought if clean_name(name) not in known]
        if unknown:
            tell(
                f"the truth has {counted(len(unknown), 'class')} that the head does not know "
                f"({quote_some(unknown)}): their average precision is 0."
            )


def _watched(
    found: Iterator[ImageDetections], task: BoxTask, done: Detected
) -> Iterator[ImageDetections]:
    for image in found:
        done.images += 1
        done.boxes += image.boxes
        if image.reason:
            done.skipped[task.boxes.images[image.image]] = image.reason
        yield image


def _kept(
    results: Iterable[dict[str, Any]], kept: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for result in results:
        kept.append(result)
        yield result


def _drawn(
    found: Iterator[ImageDetections],
    task: BoxTask,
    names: Sequence[str],
    folder: Path,
    done: Detected,
) -> Iterator[ImageDetections]:
    for image in found:
        if not image.reason:
            path = task.boxes.images[image.image]
            target = folder / f"{path}.jpg"
            likely = np.flatnonzero(image.is_likely)
            listed = [
                LabelledBox(
                    task.boxes.xywh[image.rows[i]],
                    names[image.classes[i]],
                    int(image.classes[i]),
                    float(image.scores[i]),
                )
                for i in likely
            ]
            with raise_as(CafeError, f"cannot write '{target}'", "choose another folder"):
                save_drawing(task.root / path, target, listed)
            done.drawings += 1
        yield image
