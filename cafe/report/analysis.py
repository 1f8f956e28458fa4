"""What the cached features show of a head: a map, calibration, thumbnails of confused images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize

from cafe.datasets.thumbnails import stays_inside, thumbnails_from_dataset, thumbnails_from_folder
from cafe.errors import CafeError, InputError, counted
from cafe.features.splits import draw_shots
from cafe.features.task import StoredFeatures, boxes_by_id, class_text, image_of
from cafe.methods.catalog import find_method
from cafe.methods.head import Head
from cafe.report.feature_map import points_of_map, project
from cafe.results.image_scores import ImageScores
from cafe.results.result import Result
from cafe.results.runs import head_file
from cafe.results.saved_head import load_head
from cafe.store import FeatureCache
from cafe.store.key import say_items
from cafe.study.calibration import out_of_fold, settings_in_force
from cafe.study.diagnostics import bins_json
from cafe.study.score_head import score_head

MOST_LOSSES = 12
"""Images that a page shows of those that the head judges worst."""

MOST_LOGITS = 1 << 30
"""Logits of the shots that a page fits a temperature for at most: 16 shots of 8,192 classes."""


class Loss(NamedTuple):
    """A test image that the head judges badly: its row, classes, and the guess's probability."""

    row: int
    label: int
    guess: int
    probability: float


@dataclass(frozen=True)
class Analysis:
    """What the cached test features show of one head.

    Attributes
    ----------
    seed : int
        Of the head.
    labels : list of int
        Class of each point of the map. (n,)
    before, after : list of (float, float), or None
        The map of the features as the encoder gives them, and after the adapter; None for heads
        that leave the features as they are. (n, 2)
    projection : str
        In words: how the map was made.
    reliability : mapping of str to list
        Bins "before" and, where the run has a temperature, "after" it; see
        `cafe.study.diagnostics`.
    temperature : float or None
    losses : list of Loss
        Wrong answers, the one with the least probability of the label first.
    thumbnails : mapping of int to str
        Rows of the test split -> a small JPEG as a data URI.
    ids : mapping of int to str
        Names of the same rows.
    paths : mapping of int to Path
        Files of the same rows, where the folder of the images was given and has them.
    notes : list of str
        What is not shown, and why.
    """

    seed: int
    labels: list[int]
    before: list[list[float]]
    after: list[list[float]] | None
    projection: str
    reliability: Mapping[str, Any]
    temperature: float | None
    losses: Sequence[Loss] = ()
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    ids: Mapping[int, str] = field(default_factory=dict)
    paths: Mapping[int, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def analyse(
    folder: Path, cache: FeatureCache, result: Result, seed: int, images: Path | None
) -> Analysis:
    """Analyse the test features by one head of a run.

    Parameters
    ----------
    folder : Path
        The run.
    cache : FeatureCache
    result : Result
        The one in focus.
    seed : int
        Which of its heads.
    images : Path, optional
        Where the images lie; None tries what ships with cafe and `$CAFE_DATA`.
    """
    saved = load_head(folder / head_file(result.method, result.shots, seed))
    test = StoredFeatures(cache, "test").whole
    points = points_of_map(test.y)
    x = test.x[points].float()  # (n, D)
    notes: list[str] = []
    before, projection = project(normalize(x, dim=-1).numpy())
    drawn = test[points]
    adapted = saved.head.adapted(drawn.inputs(**saved.head.takes).float())
    if adapted is None:
        notes.append(
            f"{result.method} leaves the image features as they are: the map has one side."
        )
    temperature = result.calibration.temperature if result.calibration else None
    try:
        temperature = temperature or _temperature(cache, saved.head, result, seed)
    except InputError as error:  # a file that the method needs may be gone
        notes.append(f"No temperature was fitted: {error}")
    scores = score_head(saved.head, test, len(cache.header.class_names), temperature=temperature)
    losses = _top_losses(scores)
    names = cache.ids("test")  # (N,)
    confused = {r for pair in result.page.get("confusions", ()) for r in pair["rows"]}
    ids = {image: names[image] for image in sorted(confused | {loss.row for loss in losses})}
    return Analysis(
        seed=seed,
        labels=test.y[points].tolist(),
        before=before,
        after=None if adapted is None else project(adapted.numpy(), before)[0],
        projection=say_items(projection, cache.noun),
        reliability=_reliability(scores),
        temperature=temperature,
        losses=losses,
        thumbnails=_thumbnails(cache, ids, images, notes),
        ids=ids,
        paths=_paths(cache, ids, images),
        notes=notes,
    )


def _temperature(cache: FeatureCache, head: Head, result: Result, seed: int) -> float | None:
    """Fitted on the head's own shots, each judged by a fit without it, where the run has none."""
    if find_method(result.method).needs == "text tower":  # a page loads no tower
        return None
    labels = torch.from_numpy(cache.labels("train"))
    text, rows = class_text(cache.header), draw_shots(labels, result.shots, seed)
    if len(rows) * len(text.names) > MOST_LOGITS:
        raise InputError(
            f"to fit {result.method} again to {len(rows):,} images of {len(text.names):,} classes "
            "takes long; a run that is made now has one."
        )
    drawn = StoredFeatures(cache, "train")[rows]
    features = replace(drawn, views=None)
    settings = settings_in_force(result.method, {}, head.params)
    return out_of_fold(result.method, settings, features, text, seed=seed).temperature


def _reliability(scores: ImageScores) -> dict[str, Any]:
    bins = {"before": bins_json(scores.reliability())}
    if scores.temperature:
        bins["after"] = bins_json(scores.reliability(calibrated=True))
    return bins


def _top_losses(scores: ImageScores) -> list[Loss]:
    loss = -scores.log_likelihood.masked_fill(scores.right, 0.0)  # (N,)
    worst = torch.argsort(loss, descending=True, stable=True)[:MOST_LOSSES].tolist()
    columns = (scores.labels, scores.predicted, scores.calibrated)
    return [
        Loss(row, *(column[row].item() for column in columns))  # type: ignore[arg-type]
        for row in worst
        if not scores.right[row]
    ]


def _paths(cache: FeatureCache, ids: Mapping[int, str], images: Path | None) -> dict[int, Path]:
    """The files of some test images, or of boxes, where they lie in the folder that was given."""
    if images is None:
        return {}
    boxes = boxes_by_id(cache, set(ids.values()))
    files = {row: image_of(name) if name in boxes else name for row, name in ids.items()}
    inside = {row: images / name for row, name in files.items() if stays_inside(images, name)}
    return {row: path for row, path in inside.items() if path.is_file()}


def _thumbnails(
    cache: FeatureCache, ids: Mapping[int, str], images: Path | None, notes: list[str]
) -> dict[int, str]:
    """Thumbnails of some test images, where the images are at hand."""
    try:
        if images:
            boxes = boxes_by_id(cache, set(ids.values()))
            thumbnails = thumbnails_from_folder(images, ids, boxes)
            if outside := [name for name in ids.values() if not stays_inside(images, name)]:
                notes.append(f"left out: {counted(len(outside), 'image')} outside of '{images}'.")
        else:
            thumbnails = thumbnails_from_dataset(cache.header.dataset, ids)
    except CafeError:
        thumbnails = {}
    if ids and not thumbnails:
        where = f"in '{images}'" if images else "at hand; --images FOLDER says where they are"
        notes.append(f"The images are not {where}, so mistakes have no pictures.")
    return thumbnails
