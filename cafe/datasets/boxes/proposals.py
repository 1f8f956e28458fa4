"""Boxes of a class-agnostic detector beside labelled ones: more shots, background, and a pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.boxes.boxes import UNLABELLED, Boxes
from cafe.datasets.boxes.matching import BACKGROUND, match_proposals
from cafe.datasets.dataset import SPLITS
from cafe.errors import DatasetError, counted

BACKGROUND_NAME = "background"


def proposals_name(dataset: str) -> str:
    """The name of the dataset that holds a dataset's proposals without labels."""
    return f"{dataset}-proposals"


_FREE = -3  # a proposal on an image without labels


class JoinedBoxes(NamedTuple):
    """Labelled boxes with what proposals add.

    Attributes
    ----------
    labelled : Boxes
        The labelled boxes, then proposals with the label of a box, then background.
    unlabelled : Boxes
        Proposals without a label, on the same list of images.
    note : str
        What became of the proposals.
    """

    labelled: Boxes
    unlabelled: Boxes
    note: str

    @property
    def splits(self) -> tuple[str, ...]:
        """The split of each image, "" of those in none. (M,)"""
        return self.labelled.splits or ()


def join_proposals(
    boxes: Boxes, proposals: Boxes, *, background: int | None = None, seed: int = 0
) -> JoinedBoxes:
    """Match proposals to labelled boxes, and add what they are to these.

    `match_proposals` says what a proposal stands for. One that stands for a box joins the training
    images with its label; on a validation or test image it would count the object twice, and is
    left out. Background joins every split. An image without a labelled box may be one that nobody
    has labelled: its proposals have no label, and are no background. Those of a validation or test
    image are left out, as nothing may be learnt from it.

    Parameters
    ----------
    boxes : Boxes
        Labelled, with the split of each image.
    proposals : Boxes
        In pixels; their labels are not looked at.
    background : int, optional
        Background boxes of each split at most; None is as many as its largest class has, so that
        background is no more frequent than the classes are. 0 is for images on which not all is
        labelled: there is no such class then, and on training images a proposal that no label
        overlaps has no label.
    seed : int
        Seed of the draw of background.

    Raises
    ------
    DatasetError
        If there is no proposal, or `background` is negative.
    """
    if not len(proposals):
        raise DatasetError(f"{proposals.where} has no box on any image, so it proposes nothing.")
    if background is not None and background < 0:
        raise DatasetError(f"background must be at least 0; got {background}.")
    proposals, images = _on_the_images_of(boxes, proposals)
    labels, splits = _match(boxes, proposals), _splits(boxes, images)[proposals.image]
    names = boxes.class_names
    if background == 0:
        labels[(labels == BACKGROUND) & (splits == SPLITS[0])] = _FREE
        drawn = np.zeros(0, np.int64)
    else:
        names = names if BACKGROUND_NAME in names else (*names, BACKGROUND_NAME)
        drawn = _draw_background(boxes, labels, splits, background, seed)
    matched = np.flatnonzero((labels >= 0) & (splits == SPLITS[0]))
    free = np.flatnonzero((labels == _FREE) & ~np.isin(splits, SPLITS[1:]))
    if len(drawn):
        labels[drawn] = names.index(BACKGROUND_NAME)
    named = replace(proposals, labels=labels)
    joined = _join(boxes, named.take(np.concatenate([matched, drawn])), images, names)
    labels[free] = UNLABELLED
    pool = _join(boxes.take(np.zeros(0, np.int64)), named.take(free), images, names)
    unused = len(proposals) - len(matched) - len(drawn) - len(free)
    note = (
        f"{counted(len(proposals), 'proposal')}: {len(matched):,} with the label of a box, "
        f"{len(drawn):,} of background, {len(free):,} without a label, {unused:,} unused."
    )
    return JoinedBoxes(joined, pool, note)


def relabelled(
    joined: Boxes, known: Boxes, labels: NDArray[np.int64], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels of joined boxes among the names in use, and these with background."""
    label_of = dict(zip(known.labels.tolist(), labels.tolist(), strict=True))
    added = joined.labels[len(known) :]
    for label in set(added.tolist()) - label_of.keys():  # of background, which no box has
        names = names if BACKGROUND_NAME in names else (*names, BACKGROUND_NAME)
        label_of[label] = names.index(BACKGROUND_NAME)
    new = np.array([label_of[label] for label in added.tolist()], np.int64)
    return np.concatenate([labels, new]), names


def _on_the_images_of(boxes: Boxes, proposals: Boxes) -> tuple[Boxes, tuple[str, ...]]:
    """The proposals with indices into all images: those of the boxes, and then those new."""
    index = {image: row for row, image in enumerate(boxes.images)}
    new = [image for image in proposals.images if image not in index]
    index |= {image: len(boxes.images) + row for row, image in enumerate(new)}
    places = np.array([index[image] for image in proposals.images], np.int64)
    return replace(proposals, image=places[proposals.image]), (*boxes.images, *new)


def _splits(boxes: Boxes, images: tuple[str, ...]) -> NDArray[np.str_]:
    """The split of every image, "" of those in none. (M,)"""
    known = boxes.splits or ("",) * len(boxes.images)
    return np.array([*known, *[""] * (len(images) - len(known))])


def _match(boxes: Boxes, proposals: Boxes) -> NDArray[np.int64]:
    """What each proposal stands for: a label, `BACKGROUND`, `UNUSED`, or `_FREE`. (N,)"""
    found = np.full(len(proposals), _FREE)
    ignored = boxes.is_crowd | boxes.is_difficult | (boxes.labels == UNLABELLED)
    by_image = np.argsort(boxes.image, kind="stable")
    order = np.argsort(proposals.image, kind="stable")
    images, starts = np.unique(proposals.image[order], return_index=True)
    low, high = (np.searchsorted(boxes.image[by_image], images, side) for side in ("left", "right"))
    for place, rows in enumerate(np.split(order, starts[1:])):
        own = by_image[low[place] : high[place]]
        if (boxes.labels[own] != UNLABELLED).any():
            part = proposals.xywh[rows], boxes.xywh[own], boxes.labels[own], ignored[own]
            found[rows] = match_proposals(*part).labels
    return found


def _draw_background(
    boxes: Boxes,
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
    most: int | None,
    seed: int,
) -> NDArray[np.int64]:
    """Rows of the background proposals that are kept in each split, in their order."""
    of_boxes = _splits(boxes, boxes.images)[boxes.image]
    drawn = []
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero((labels == BACKGROUND) & (splits == split))
        own = boxes.labels[(of_boxes == split) & (boxes.labels >= 0)]
        count = int(np.bincount(own).max(initial=0)) if most is None else most
        # RandomState's streams are frozen (NEP 19)
        sequence = np.random.SeedSequence([seed, number])
        order = np.random.RandomState(np.random.MT19937(sequence)).permutation(len(rows))
        drawn.append(np.sort(rows[order[:count]]))
    return np.concatenate(drawn)


def _join(boxes: Boxes, added: Boxes, images: tuple[str, ...], names: tuple[str, ...]) -> Boxes:
    """The boxes and, after them, those added, under these images and class names."""
    columns = ("image", "xywh", "labels", "areas", "is_crowd", "is_difficult")
    more = len(images) - len(boxes.images)
    sizes = dict(zip(added.images, added.sizes.tolist(), strict=True))
    new_sizes = [sizes[image] for image in images[len(boxes.images) :]]
    first_id = int(boxes.box_ids.max(initial=-1)) + 1  # the detector's own may be taken
    free_image = int(boxes.image_ids.max(initial=-1)) + 1
    free_category = int(boxes.category_ids.max(initial=-1)) + 1
    values: dict[str, Any] = {
        name: np.concatenate([getattr(boxes, name), getattr(added, name)]) for name in columns
    }
    return replace(
        boxes,
        **values,
        box_ids=np.concatenate([boxes.box_ids, np.arange(first_id, first_id + len(added))]),
        images=images,
        image_ids=np.append(boxes.image_ids, np.arange(free_image, free_image + more)),
        sizes=np.concatenate([boxes.sizes, np.reshape(np.array(new_sizes, np.int64), (-1, 2))]),
        splits=tuple(_splits(boxes, images).tolist()),
        class_names=names,
        category_ids=np.append(
            boxes.category_ids,
            np.arange(free_category, free_category + len(names) - len(boxes.class_names)),
        ),
        scores=None,
    )
