"""The boxes that a head is asked about: read, put on their images, and numbered as the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.read import read_boxes
from cafe.datasets.text_files import quote_some
from cafe.errors import InputError, counted

Note = Callable[[str], None]


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
    for line in true.notes:
        tell(f"{Path(true.where).name}: {line}.")
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
