"""Which labelled box a proposal stands for, by IoU; knows arrays alone.

Boxes are `x, y, width, height` in pixels, as in COCO; x and y are of the upper left corner.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAME, APART = 0.5, 0.3
"""From this IoU on a proposal stands for a labelled box, and below this one for none (Girshick et
al. 2014, arXiv 1311.2524, section 2.3 for the second)."""

UNUSED, BACKGROUND = -1, -2
"""Labels of proposals that stand for no labelled box."""

_PAIRS = 1 << 22  # overlaps in memory at once: 32 MiB each array


def overlaps(
    boxes: NDArray[np.floating], others: NDArray[np.floating], *, of_first: bool = False
) -> NDArray[np.float64]:
    """IoU of every pair of boxes: `area(a and b) / area(a or b)`; 0 where both areas are 0.

    Parameters
    ----------
    boxes, others : ndarray
        (N, 4) and (M, 4)
    of_first : bool
        Divide by the area of the first box alone, as COCO does where the second is a crowd.

    Returns
    -------
    ndarray
        (N, M)
    """
    first, second = (np.asarray(some, np.float64).reshape(-1, 4) for some in (boxes, others))
    low = np.maximum(first[:, None, :2], second[:, :2])  # (N, M, 2)
    high = np.minimum((first[:, :2] + first[:, 2:])[:, None], second[:, :2] + second[:, 2:])
    both = (high - low).clip(min=0).prod(axis=-1)  # (N, M)
    own, other = first[:, 2:].prod(axis=1), second[:, 2:].prod(axis=1)
    whole = np.broadcast_to(own[:, None], both.shape) if of_first else own[:, None] + other - both
    iou: NDArray[np.float64] = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    return iou


class Matches(NamedTuple):
    """What proposals stand for.

    Attributes
    ----------
    labels : ndarray
        The label of the labelled box, or `BACKGROUND`, or `UNUSED`. (N,) int64
    boxes : ndarray
        Row of the labelled box with the largest IoU; -1 where there is none. (N,) int64
    iou : ndarray
        That IoU. (N,)
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    iou: NDArray[np.float64]


def match_proposals(
    proposals: NDArray[np.floating],
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    ignored: NDArray[np.bool_] | None = None,
) -> Matches:
    """Match the proposals of one image to its labelled boxes.

    A proposal takes the label of the box that it overlaps most, if their IoU is at least `SAME`.
    Below `APART` it is background; between both it is unused. An ignored region (a crowd) gives no
    label: a proposal that lies in it by half (`APART` of its own area already makes it doubtful) is
    unused unless it stands for a box.

    Parameters
    ----------
    proposals : ndarray
        (N, 4)
    boxes : ndarray
        (M, 4)
    labels : ndarray
        Of the boxes. (M,)
    ignored : ndarray, optional
        Which boxes are ignored regions; None is none. (M,) bool

    Returns
    -------
    Matches
    """
    proposals = np.asarray(proposals, np.float64).reshape(-1, 4)
    if not len(boxes):
        alone = np.full(len(proposals), -1)
        return Matches(np.full(len(proposals), BACKGROUND), alone, np.zeros(len(proposals)))
    ignored = np.zeros(len(boxes), bool) if ignored is None else np.asarray(ignored, bool)
    step = max(1, _PAIRS // len(boxes))
    blocks = range(0, len(proposals), step)
    parts = [_match(proposals[start : start + step], boxes, labels, ignored) for start in blocks]
    if not parts:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Matches(*map(np.concatenate, zip(*parts, strict=True)))


def _match(
    proposals: NDArray[np.float64],
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    ignored: NDArray[np.bool_],
) -> Matches:
    iou = overlaps(proposals, boxes)  # (n, M)
    iou[:, ignored] = 0.0
    best, inside = iou.argmax(axis=1), np.zeros(len(proposals))  # (n,)
    most = iou[np.arange(len(iou)), best]
    if ignored.any():
        inside = overlaps(proposals, boxes[ignored], of_first=True).max(axis=1)
    found = np.full(len(proposals), UNUSED)
    found[(most < APART) & (inside < APART)] = BACKGROUND
    found[most >= SAME] = np.asarray(labels, np.int64)[best[most >= SAME]]
    return Matches(found, np.where(most > 0, best, -1), most)


def suppress(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
    iou: float,
) -> NDArray[np.int64]:
    """Non-maximum suppression class by class, as `torchvision.ops.batched_nms`.

    It is written here because torchvision's compiled operators do not load beside every torch.

    Parameters
    ----------
    boxes : ndarray
        (N, 4)
    scores, classes : ndarray
        (N,)
    iou : float
        A box is dropped that overlaps a better one of its class by more than this.

    Returns
    -------
    ndarray
        Rows that are kept, the best first; of equal scores the first. (K,) int64
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    dropped = np.zeros(len(order), bool)
    for row in order:
        if not dropped[row]:
            mates = order[~dropped[order] & (classes[order] == classes[row])]
            worse = mates[mates != row]
            # rows before it in the order are kept or dropped already, and overlap it less
            dropped[worse[overlaps(boxes[row], boxes[worse])[0] > iou]] = True
    return order[~dropped[order]].astype(np.int64)
