"""Average precision of detections, as COCO computes it, by pycocotools; knows no head."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cafe.datasets.boxes.boxes import Boxes
from cafe.errors import InputError, how_to_install


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision in percent, as COCO's evaluation gives it.

    Attributes
    ----------
    ap : float or None
        Mean over IoU 0.5, 0.55, ... 0.95 and over classes; None without a true box.
    ap50, ap75 : float or None
        At one IoU.
    per_class : mapping of str to (float or None, float or None)
        AP and AP50 of each class that has a true box.
    images, boxes : int
        Images that were judged, and true boxes on them, crowds not counted.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    per_class: Mapping[str, tuple[float | None, float | None]]
    images: int
    boxes: int

    @property
    def json(self) -> dict[str, Any]:
        """It as JSON values."""
        classes = {name: {"ap": ap, "ap50": ap50} for name, (ap, ap50) in self.per_class.items()}
        return {**vars(self), "per_class": classes}


def import_pycocotools() -> Any:
    """Import pycocotools' evaluation.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module("pycocotools.coco"), importlib.import_module(
            "pycocotools.cocoeval"
        )
    except ImportError as error:
        raise InputError(
            f"average precision needs pycocotools, which is not installed: "
            f"{how_to_install('coco')}."
        ) from error


def average_precision(
    truth: Boxes, results: Sequence[Mapping[str, Any]], image_ids: Sequence[int]
) -> AveragePrecision:
    """Score detections against true boxes.

    Parameters
    ----------
    truth : Boxes
        Labelled boxes in pixels. A crowd, or an object marked as difficult, counts neither for nor
        against.
    results : sequence of mapping
        COCO results (`image_id`, `category_id`, `bbox`, `score`), with the ids of `truth`.
    image_ids : sequence of int
        The images that were looked at; the others are left out.

    Returns
    -------
    AveragePrecision

    Raises
    ------
    InputError
        If pycocotools is not installed.
    """
    coco, cocoeval = import_pycocotools()
    judged = sorted({int(number) for number in image_ids})
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy's deprecations, which pycocotools meets
        index = coco.COCO()
        index.dataset = coco_truth(truth)
        index.createIndex()
        found = coco.COCO()
        found.dataset = {**index.dataset, "annotations": _as_annotations(results)}
        found.createIndex()
        evaluation = cocoeval.COCOeval(index, found, "bbox")
        evaluation.params.imgIds = judged
        evaluation.evaluate()
        evaluation.accumulate()
    # precision: (IoU, recall, class, area, detections), -1 where nothing is to be found
    precision = evaluation.eval["precision"][..., 0, -1]  # all areas, 100 detections: (T, R, C)
    per_class = {
        name: (_mean(precision[:, :, place]), _mean(precision[0, :, place]))
        for place, name in _in_order(truth, evaluation.params.catIds)
        if (precision[:, :, place] > -1).any()
    }
    is_judged = np.isin(truth.image_ids[truth.image], judged) & (truth.labels >= 0)
    return AveragePrecision(
        _mean(precision),
        _mean(precision[0]),
        _mean(precision[5]),
        per_class,
        len(judged),
        int((is_judged & ~truth.is_crowd & ~truth.is_difficult).sum()),
    )


def coco_truth(truth: Boxes) -> dict[str, Any]:
    """Labelled boxes as a COCO dataset; what is difficult is ignored, as a crowd is."""
    ignored = truth.is_crowd | truth.is_difficult
    rows = np.flatnonzero(truth.labels >= 0)
    return {
        "info": {},
        "images": [{"id": int(number)} for number in truth.image_ids],
        "categories": [
            {"id": int(number), "name": name}
            for number, name in zip(truth.category_ids, truth.class_names, strict=True)
        ],
        "annotations": [
            {
                "id": place + 1,  # 0 would be taken for no match
                "image_id": int(truth.image_ids[truth.image[row]]),
                "category_id": int(truth.category_ids[truth.labels[row]]),
                "bbox": truth.xywh[row].tolist(),
                "area": float(truth.areas[row]),
                "iscrowd": int(ignored[row]),
            }
            for place, row in enumerate(rows)
        ],
    }


def _as_annotations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**result, "id": place + 1, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for place, result in enumerate(results)
    ]


def _in_order(truth: Boxes, ids: Sequence[int]) -> list[tuple[int, str]]:
    """The place of each class in pycocotools' arrays, in the order of the truth."""
    names = dict(zip(truth.category_ids.tolist(), truth.class_names, strict=True))
    return [(place, names[number]) for place, number in enumerate(ids)]


def _mean(precision: Any) -> float | None:
    found = precision[precision > -1]
    return round(100 * float(found.mean()), 2) if found.size else None
