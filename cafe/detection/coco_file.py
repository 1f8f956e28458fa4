"""`cafe predict --boxes`: from a box file and a folder of images to COCO results and their AP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.read import read_boxes
from cafe.datasets.text_files import distinct_names, quote_some
from cafe.detection.average_precision import (
    AveragePrecision,
    average_precision,
    import_pycocotools,
)
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

Note = Callable[[str], None]


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


@dataclass(frozen=True)
class BoxTask:
    """The boxes to look at, on their images, and what is known of them.

    Attributes
    ----------
    boxes : Boxes
        Not empty, in pixels.
    root : Path
    image_ids : tuple of int
        COCO's number of each image: the truth's, else the box file's.
    truth : Boxes or None
        True boxes, in pixels.
    judged : tuple of int
        COCO's numbers of the images that detections are scored on.
    like : Boxes or None
        Whose categories detections get.
    files : tuple of Path
        What was read, which must not be written over.
    """

    boxes: Boxes
    root: Path
    image_ids: tuple[int, ...]
    truth: Boxes | None
    judged: tuple[int, ...]
    like: Boxes | None
    files: tuple[Path, ...] = ()


def load_task(
    boxes: Path,
    root: Path,
    truth: Path | None = None,
    *,
    allow_missing: bool = False,
    note: Note | None = None,
) -> BoxTask:
    """Read the boxes to look at, and the true ones.

    Parameters
    ----------
    boxes : Path
        A file or folder of boxes, as `read_boxes` takes it; COCO results too, where the truth is a
        COCO file with their images. Their labels are not looked at.
    root : Path
        Folder of the images.
    truth : Path, optional
        Labelled boxes.
    allow_missing : bool
        Go on without images that are not there.
    note : callable, optional
        Called with each line that is good to know.

    Raises
    ------
    DatasetError
        If a file cannot be read, or its images are not there.
    InputError
        If `root` is no folder, or truth and boxes are of other images.
    """
    if not root.is_dir():
        raise InputError(f"'{root}' is no folder; name the one that the images of boxes lie in.")
    tell = note or (lambda _: None)
    known = None if truth is None else read_boxes(truth)
    asked = place_boxes(read_boxes(boxes, known), root, allow_missing=allow_missing)
    for line in asked.boxes.notes:
        tell(f"{boxes.name}: {line}.")
    if asked.missing:
        tell(f"{boxes.name}: {counted(len(asked.missing), 'image', 'are')} not there; left out.")
    kept = asked.boxes.take(np.flatnonzero((asked.boxes.xywh[:, 2:] > 0).all(axis=1)))
    if not len(kept):
        raise InputError(f"'{boxes}' has no box on an image of '{root}', so nothing to predict.")
    own_ids = tuple(kept.image_ids.tolist())
    if known is None:
        like = kept if len(set(kept.class_names)) > 1 else None
        return BoxTask(kept, root, own_ids, None, (), like, (boxes,))
    true = place_boxes(known, root, allow_missing=True).boxes
    ids = dict(zip(true.images, true.image_ids.tolist(), strict=True))
    judged = [image for image in kept.images if image in ids]
    if not judged:
        raise InputError(
            f"'{truth}' and '{boxes}' have no image in common ({quote_some(true.images, 2)}; "
            f"{quote_some(kept.images, 2)}), so there is nothing to score."
        )
    _tell_of_images(tell, true, kept, ids)
    free = max(ids.values()) + 1
    image_ids = []
    for image in kept.images:
        if image not in ids:  # a number that the truth does not have: not judged
            ids[image], free = free, free + 1
        image_ids.append(ids[image])
    numbers = tuple(ids[image] for image in judged)
    files = (boxes, Path(true.where))
    return BoxTask(kept, root, tuple(image_ids), true, numbers, true, files)


def _tell_of_images(tell: Note, true: Boxes, asked: Boxes, ids: Mapping[str, int]) -> None:
    others = [image for image in asked.images if image not in ids]
    if others:
        tell(
            f"{counted(len(others), 'image')} ({quote_some(others)}) without truth: "
            "detections are written and not scored."
        )
    left_out = set(true.images) - set(asked.images)
    if left_out:
        tell(
            f"{counted(len(left_out), 'image')} of the truth ({quote_some(sorted(left_out))}) not "
            "among those of the boxes: left out of the score; list them under 'images' to count "
            "what is on them as missed."
        )


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
    if task.like is None or not set(names) & set(task.like.class_names):
        listed = ", ".join(f"{number} {name}" for number, name in categories.items())
        tell(f"category ids: {listed}.")
    if task.truth is not None:
        unknown = [name for name in task.truth.class_names if name not in names]
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
