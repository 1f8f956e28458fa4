"""`cafe.check`: what may be wrong with a labelled dataset, from its cached features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cafe.curation.class_texts import near_texts, report_classes
from cafe.curation.findings import Check, Copies, Finding, Labelled
from cafe.curation.label_errors import Judges, find_label_errors, fit_judges, usual_method
from cafe.curation.near_duplicates import find_neighbours, find_pairs, group
from cafe.curation.outliers import find_outliers
from cafe.curation.source import Source, find_source
from cafe.datasets.dataset import Dataset, check_labelled
from cafe.datasets.pictures import Glance, glance
from cafe.datasets.text_files import distinct_names
from cafe.datasets.thumbnails import Box
from cafe.devices import resolve_device
from cafe.errors import InputError, counted
from cafe.extract.extractor import Extractor
from cafe.features.task import boxes_by_id, load_task
from cafe.features.tensors import join
from cafe.methods.base import Context
from cafe.methods.catalog import find_method
from cafe.progress import Note, Progress, log
from cafe.store import FeatureCache
from cafe.store.key import say_items

_MANY = 3000  # images that `auto` judges for longer than ten seconds on two cores
_TINY = 24  # pixels of the shorter side
_USUAL = 0.5  # of all images; what more have is no fault of each
_DOUBTED = 0.25  # of all labels; more are hardly wrong
_BLANK = 1.0  # standard deviation of grey values, of 255


def check(
    source: Dataset | FeatureCache | Path | str | None = None,
    *,
    images: Path | str | None = None,
    method: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    split_file: Path | str | None = None,
    data_root: Path | str | None = None,
    class_names: Path | None = None,
    template: Sequence[str] | None = None,
    prompts: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    note: Note | None = None,
) -> Check:
    """Look for wrong labels, copies, outliers, useless images and texts that read badly.

    Features alone say most of it. Whether an image is almost blank or tiny, and whether a crop is
    a copy, is told where the image files are at hand.

    Parameters
    ----------
    source : Dataset, FeatureCache, Path or str, optional
        A cache or its name; or what `Extractor.extract` takes, which is encoded first, or brought
        up to date. None takes the newest cache.
    images : Path or str, optional
        Of a cache: the folder that its ids are relative to.
    method : str, optional
        Who judges the labels, a name of `cafe methods`. None takes `auto`, `lda-prior` where that
        would take minutes, `map-probe` where zero-shot CLIP is hardly better than guessing, and a
        linear probe where the classes have no texts.
    model, pretrained : optional
        As of `Extractor`; None takes the encoder of the newest cache of the dataset, if it has one.
    split_file, data_root, class_names, template, prompts, cache : optional
        As of `Extractor.extract`.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    progress : callable, optional
        See `cafe.progress.Progress`.
    note : callable, optional
        Called with each line that is good to know. None logs them.

    Returns
    -------
    Check

    Raises
    ------
    CafeError
        If the dataset or the cache cannot be had, or the method needs more than a cache has.

    Examples
    --------
    >>> found = cafe.check("digits/nano.glyphs")
    >>> found.images, len(found.label_errors) < 60
    (1797, True)
    """
    began, note = time.perf_counter(), note or log.info
    if method is not None and (need := find_method(method).needs):
        raise InputError(f"{method} needs more than a cache has ({need}); take auto or lda-prior.")
    how: dict[str, Any] = {
        "data_root": data_root,
        "split_file": split_file,
        "class_names": class_names,
    }
    how |= {"template": template, "prompts": prompts}
    extractor = Extractor(model, pretrained, device=device)
    at_hand = find_source(source, extractor, how, cache, progress, note)
    check_labelled(at_hand.cache.header.dataset, at_hand.cache.header.class_names)
    if images is not None:
        at_hand = replace(at_hand, root=Path(images))
    found = _look(at_hand, method, Context(resolve_device(device)), progress, note)
    return replace(found, seconds=round(time.perf_counter() - began, 2))


def _look(
    source: Source,
    method: str | None,
    context: Context,
    progress: Progress | None,
    note: Note,
) -> Check:
    """Look at all images of a source; what is long in it is told before."""
    cache, header, notes = source.cache, source.cache.header, list[str]()
    task, names = load_task(cache), distinct_names(header.class_names)
    images = join([split.to("cpu") for split in task.splits.values()])
    labelled = _labelled(cache, names, images.y.tolist())
    boxes = boxes_by_id(cache, {image.id for image in labelled})
    pixels = _glance(source.root, labelled, boxes, progress, notes)
    near = find_neighbours(images.x, progress)
    is_tiny = pixels.sides < _TINY if pixels else None
    pairs = find_pairs(near, pixels.grey if pixels else None, progress, is_tiny)
    used = method or usual_method(images, task.text)
    if used == "auto" and len(images) >= _MANY:
        items = counted(len(images), cache.noun)
        note(
            f"auto judges the labels of {items}, which may take a minute; the method lda-prior "
            "takes seconds and finds nearly as much"
        )
    judges = fit_judges(images, task.text, used, context, progress)
    errors = find_label_errors(judges, images.y)
    notes += _doubts_of(judges, len(errors), len(labelled))
    classes, zero_shot = report_classes(
        images, [image.split for image in labelled], task.text, names, header.sentences
    )
    return Check(
        name=header.dataset,
        encoder=f"{header.model}.{header.pretrained}",
        root=source.root,
        origin=dict(source.origin),
        labelled=labelled,
        classes=classes,
        method=used,
        label_errors=[
            Finding(labelled[e.row], "label", names[e.proposed], e.confidence) for e in errors
        ],
        copies=[_copies(rows, pairs, labelled) for rows in group(pairs, len(labelled))],
        outliers=[
            *(Finding(labelled[row], "outlier", "", 1.0) for row in _zeros(images.x)),
            *(Finding(labelled[row], "outlier", "", sure) for row, sure in find_outliers(near)),
        ],
        useless=_useless(pixels, labelled, notes),
        near_texts=[(names[a], names[b], round(c, 4)) for a, b, c in near_texts(task.text)],
        zero_shot=zero_shot,
        notes=[say_items(line, cache.noun) for line in notes],
        boxes=boxes,
    )


def _labelled(cache: FeatureCache, names: Sequence[str], labels: Sequence[int]) -> list[Labelled]:
    """The images of all splits, one after the other. (N,)"""
    rows = [(split, name) for split in cache.counts for name in cache.ids(split)]
    pairs = zip(rows, labels, strict=True)
    return [Labelled(name, split, names[label]) for (split, name), label in pairs]


def _doubts_of(judges: Judges, errors: int, images: int) -> list[str]:
    """What speaks against the judgement of the labels, in clauses."""
    if not judges.parts:
        return ["labels are not judged: no class has two images, or there is one class only"]
    if errors <= _DOUBTED * images:
        return []
    return [
        f"{errors:,} of {images:,} labels are doubted: many are wrong, or the encoder hardly "
        "tells these classes apart, and then little of it is right"
    ]


def _glance(
    root: Path | None,
    labelled: Sequence[Labelled],
    boxes: Mapping[str, Box],
    progress: Progress | None,
    notes: list[str],
) -> Glance | None:
    """Pixels of all images, where all can be read; else a note says what cannot be told."""
    if root is not None:
        tell = partial(progress, "images looked at") if progress else lambda _done, _all: None
        pixels = glance(root, [image.id for image in labelled], tell, boxes)
        if (pixels.sides > 0).all():
            return pixels
        lacking = int((pixels.sides == 0).sum())
        if lacking < len(labelled):
            notes.append(f"{lacking:,} of {len(labelled):,} images are not in '{root}'")
            return None
    notes.append(
        "blank and tiny images cannot be told from features alone, and cropped copies less well; "
        "check the folder of the images, or give --images FOLDER"
    )
    return None


def _zeros(x: torch.Tensor) -> list[int]:
    zeros: list[int] = (~x.any(dim=1)).nonzero().squeeze(1).tolist()
    return zeros


def _copies(rows: list[int], pairs: Sequence[Any], labelled: Sequence[Labelled]) -> Copies:
    inside = set(rows)
    sure = min(pair.confidence for pair in pairs if pair.first in inside)
    return Copies([labelled[row] for row in rows], round(sure, 4))


def _useless(
    pixels: Glance | None, labelled: Sequence[Labelled], notes: list[str]
) -> list[Finding]:
    if pixels is None:
        return []
    contrast = pixels.grey.std(axis=(1, 2))
    blank, tiny = contrast < _BLANK, pixels.sides < _TINY
    if tiny.mean() > _USUAL:
        notes.append(
            f"{int(tiny.sum()):,} of {len(tiny):,} images are under {_TINY} pixels: this is how "
            "the dataset is, so none is listed as tiny"
        )
        tiny = np.zeros_like(tiny)
    found = [
        Finding(labelled[row], "blank", "", 1 - float(contrast[row]) / 2)
        for row in np.flatnonzero(blank).tolist()
    ]
    rows = np.flatnonzero(tiny & ~blank).tolist()
    return found + [Finding(labelled[row], "tiny", "", 1.0) for row in rows]
