"""Boxes -> detections, with a saved head behind its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.datasets.boxes.boxes import Boxes
from cafe.detection.detections import (
    DetectOptions,
    ImageDetections,
    background_of,
    choose_detections,
)
from cafe.detection.encode_boxes import EncodedBoxes, encode_boxes
from cafe.errors import InputError
from cafe.extract.encode import LoaderOptions
from cafe.inference.predictor import Predictor
from cafe.results.saved_head import SavedHead

WHOLE_IMAGES = (1.0,)
"""Contexts for a head that was fitted on whole images: a box is taken for one."""


def detect(
    predictor: Predictor,
    boxes: Boxes,
    root: Path,
    options: DetectOptions | None = None,
    loader: LoaderOptions | None = None,
) -> Iterator[ImageDetections]:
    """Say of boxes what they show, image by image.

    Parameters
    ----------
    predictor : Predictor
        Its head may have a class `background`: what is likeliest that is no detection.
    boxes : Boxes
        On their images, in pixels; their labels are not looked at.
    root : Path
        Folder of the images.
    options : DetectOptions, optional
    loader : LoaderOptions, optional
        How images are read and encoded.

    Returns
    -------
    iterator of ImageDetections
        One for each image that has a box, in order; of an image that cannot be read, with the
        reason.

    Raises
    ------
    InputError
        If the head takes spatial maps, or classes cannot overlap under it; nothing is read.
    """
    options, saved = options or DetectOptions(), predictor.saved
    if options.overlap is None:
        options = replace(options, overlap=saved.head.own_scores)
    if saved.head.spatial:
        raise InputError(f"{saved.head.method} takes spatial maps, which boxes have none of.")
    if saved.head.pre_projection:
        raise InputError(
            f"{saved.head.method} takes features before the projection, which boxes have none of."
        )
    background = background_of(saved.class_names)
    if options.overlap and background is None and not saved.has_scores:
        raise InputError(
            "classes overlap only where each has a score of its own: against a class 'background' "
            "(extract with --proposals), by a sigmoid loss (of linear-probe), or "
            "by an encoder such as SigLIP; this head has none of them."
        )
    encoded = encode_boxes(
        predictor.only_encoder, boxes, root, contexts_of(saved), loader or LoaderOptions()
    )
    return _detect(encoded, boxes, saved, background, options)


def contexts_of(saved: SavedHead) -> Sequence[float]:
    """The contexts of the crops that a head was fitted on."""
    crops = saved.about["cache_key"].get("boxes")
    return tuple(crops["context"]) if crops else WHOLE_IMAGES


def _detect(
    encoded: Iterator[EncodedBoxes],
    boxes: Boxes,
    saved: SavedHead,
    background: int | None,
    options: DetectOptions,
) -> Iterator[ImageDetections]:
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # of one image
    for part in encoded:
        if part.reason:
            none = np.zeros(0, np.int64)
            yield ImageDetections(
                part.image, none, none, none.astype(float), none > 0, len(part.rows), part.reason
            )
            continue
        scores = box_scores(saved, part.features, background, overlap=bool(options.overlap))
        parts.append((part.rows, scores.numpy()))
        if part.is_last:
            rows, all_scores = (np.concatenate(some) for some in zip(*parts, strict=True))
            xywh = boxes.xywh[rows]
            yield choose_detections(part.image, rows, xywh, all_scores, background, options)
            parts = []


def box_scores(
    saved: SavedHead, x: Tensor, background: int | None, *, overlap: bool = False
) -> Tensor:
    """Scores of the classes.

    Calibrated probabilities, which sum to 1. Where classes overlap, each is judged alone: by
    `sigmoid(z_c)` of a head that was fitted so, else against background,
    `sigmoid((z_c - z_background) / T)`, or without one by SigLIP's `sigmoid(z_c)`.

    Parameters
    ----------
    saved : SavedHead
    x : Tensor
        Raw features. (n, D)
    background : int or None
        The class that is no object.
    overlap : bool
        Whether classes may overlap.

    Returns
    -------
    Tensor
        (n, C)
    """
    if not overlap:
        return saved.probabilities(x)
    if background is None or saved.head.own_scores:
        own = saved.scores(x)
        if own is None:
            raise InputError("this head has no score for each class alone.")
        return own
    z = saved.head(x) / (saved.temperature or 1.0)
    return torch.sigmoid(z - z[:, background, None])
