"""From a box file and a folder of images to a dataset of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets import prompts
from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.dataset import CONTEXT, BoxDataset
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.proposals import join_proposals, proposals_name, relabelled
from cafe.datasets.boxes.read import read_boxes
from cafe.datasets.dataset import SPLITS, Item
from cafe.datasets.image_files import file_size
from cafe.datasets.image_list import ClassNames, check_trained, choose_names
from cafe.datasets.load import short_name, with_words
from cafe.datasets.make_split import SPLIT_OF_IMAGES, assign_splits
from cafe.datasets.text_files import clean_name, quote_some
from cafe.errors import DatasetError, InputError, counted

_MOST_CONTEXT = 10.0


def check_context(context: Sequence[float]) -> tuple[float, ...]:
    """The sides of the crops, checked."""
    sides = tuple(map(float, context))
    if not sides or len(set(sides)) < len(sides) or not all(1 <= c <= _MOST_CONTEXT for c in sides):
        raise InputError(
            f"context must be different numbers from 1 to {_MOST_CONTEXT:g}, such as 1,1.5; got "
            f"{','.join(f'{side:g}' for side in sides) or 'none'}."
        )
    return sides


def load_boxes(
    root: Path,
    path: Path,
    *,
    templates: tuple[str, ...] | None = None,
    context: Sequence[float] = CONTEXT,
    class_names: ClassNames = None,
    allow_missing: bool = False,
    proposals: Path | None = None,
    background: int | None = None,
) -> BoxDataset:
    """Make a dataset of the labelled boxes of a file. No image is decoded.

    Published lists of images make the splits. Where there is none, cafe does, by the image: no
    image has boxes in two splits.

    Parameters
    ----------
    root : Path
        Folder of the images.
    path : Path
        Box file or folder; see `read_boxes`.
    templates, class_names, allow_missing
        As for `cafe.datasets.load_dataset`.
    context : sequence of float
        Sides of the crops of a box, in those of the box.
    proposals : Path, optional
        Boxes of a detector on images below `root`; `join_proposals` says what becomes of them.
    background : int, optional
        Of proposals: background boxes of each split at most.

    Raises
    ------
    CafeError
        If the boxes cannot be read, none has a label, or images are missing.
    """
    sides = check_context(context)
    templates = prompts.templates_for("default") if templates is None else templates
    prompts.check_templates(templates)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder of images, which boxes need; check the path.")
    name = short_name(root)
    placed = place_boxes(read_boxes(path), root, allow_missing=allow_missing, name=name)
    boxes, labels, names, notes = _labelled(placed.boxes, class_names)
    split_of_image, words = _splits(boxes, labels, f"boxes of {path.name}")
    is_made = SPLIT_OF_IMAGES in words
    free: Boxes | None = None
    if proposals is not None:
        known = replace(boxes, splits=tuple(split_of_image))
        found = _read_proposals(proposals, known, root, allow_missing=allow_missing)
        joined = join_proposals(known, found, background=background)
        notes += [*(f"{proposals.name}: {line}" for line in found.notes), joined.note]
        labels, names = relabelled(joined.labelled, known, labels, names)
        boxes, free, split_of_image = joined.labelled, joined.unlabelled, [*joined.splits]
    splits, items = _items(boxes, labels, split_of_image, root)
    pairs = {s: [(i.id, i.label) for i in own] for s, own in splits.items() if own}
    check_trained(pairs, names, boxes.where, "box")
    dataset = BoxDataset(
        name=name,
        class_names=names,
        splits={split: tuple(own) for split, own in splits.items() if own},
        templates=templates,
        root=root,
        source=words,
        missing=placed.missing,
        notes=tuple(notes),
        boxes=boxes,
        context=sides,
    )
    if is_made:
        dataset = replace(dataset, unsplit=tuple(items))
    if free is not None and len(free):
        dataset = replace(dataset, unlabelled=_unlabelled(dataset, free, root))
    return dataset if class_names is not None else with_words(dataset)


def _items(
    boxes: Boxes, labels: NDArray[np.int64], split_of_image: Sequence[str], root: Path
) -> tuple[dict[str, list[Item]], list[Item]]:
    """The labelled boxes of each split, and of all, those of an image side by side."""
    order = np.lexsort((boxes.numbers, boxes.image))
    numbers, sizes = boxes.numbers, [file_size(root / image) or 0 for image in boxes.images]
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    items = []
    for row in order[labels[order] >= 0].tolist():
        image = int(boxes.image[row])
        if split := split_of_image[image]:
            item = Item(f"{boxes.images[image]}#{numbers[row]}", int(labels[row]), sizes[image])
            splits[split].append(item)
            items.append(item)
    return splits, items


def _unlabelled(dataset: BoxDataset, free: Boxes, root: Path) -> BoxDataset:
    """The dataset of proposals without labels: all in one split, under labels that mean nothing."""
    labels, splits = np.zeros(len(free), np.int64), ["train"] * len(free.images)
    about = replace(dataset, name=proposals_name(dataset.name), unsplit=(), notes=(), boxes=free)
    items = tuple(_items(free, labels, splits, root)[1])
    return replace(about, splits={"train": items}, source=f"{dataset.source}; proposals")


def _read_proposals(path: Path, known: Boxes, root: Path, *, allow_missing: bool) -> Boxes:
    """Proposals on images that are there, without those that are empty."""
    placed = place_boxes(read_boxes(path, known), root, allow_missing=allow_missing).boxes
    return placed.take(np.flatnonzero((placed.xywh[:, 2:] > 0).all(axis=1)))


def _labelled(
    boxes: Boxes, class_names: ClassNames
) -> tuple[Boxes, NDArray[np.int64], tuple[str, ...], list[str]]:
    """The boxes, their classes without those that have no box, and what is left out."""
    names = choose_names(
        dict(enumerate(map(clean_name, boxes.class_names))), class_names, boxes.where
    )
    used = np.unique(boxes.labels[boxes.labels >= 0])
    if not used.size:
        raise DatasetError(
            f"{boxes.where}: none of {counted(len(boxes), 'box')} has a label; label some boxes of "
            "each class."
        )
    notes = list(boxes.notes)
    if bare := int((boxes.labels < 0).sum()):
        notes.append(f"left out: boxes without a label ({bare:,})")
    if empty := [name for label, name in enumerate(names) if label not in used]:
        notes.append(f"left out: classes without a box ({len(empty):,}: {quote_some(empty)})")
    label_of = np.append(np.searchsorted(used, np.arange(len(names))), -1)  # the last is of -1
    return boxes, label_of[boxes.labels], tuple(names[label] for label in used), notes


def _splits(boxes: Boxes, labels: NDArray[np.int64], where: str) -> tuple[list[str], str]:
    """The split of each image, "" of one that is left out, and where they come from in words."""
    if boxes.splits is None:
        rows = np.flatnonzero(labels >= 0).tolist()
        pairs: list[tuple[str, Any]] = [
            (boxes.images[boxes.image[row]], int(labels[row])) for row in rows
        ]
        splits = [""] * len(boxes.images)
        for row, split in zip(rows, assign_splits(pairs, {}), strict=True):
            splits[boxes.image[row]] = split
        return splits, f"{where}; {SPLIT_OF_IMAGES}"
    words = f"{where}, with their splits"
    if outside := boxes.splits.count(""):
        words += f"; {counted(outside, 'image')} in no split left out"
    if "test" not in boxes.splits and "val" in boxes.splits:
        # as of ImageNet and COCO, whose test labels are not published
        splits = ["test" if split == "val" else split for split in boxes.splits]
        return splits, f"{words}; val is the test split"
    return list(boxes.splits), words
