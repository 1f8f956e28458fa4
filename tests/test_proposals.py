"""Proposals matched to labelled boxes: IoU, background, crowds, and what becomes of each."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe.compat import import_torchvision
from cafe.datasets.boxes.boxes import BoxColumns, Boxes
from cafe.datasets.boxes.matching import (
    BACKGROUND,
    UNUSED,
    match_proposals,
    overlaps,
    suppress,
)
from cafe.datasets.boxes.proposals import join_proposals, relabelled
from cafe.errors import DatasetError

BOX = st.tuples(*[st.integers(0, 40)] * 4)


def make_boxes(
    rows: list[tuple[int, tuple[float, ...], int]],
    images: int = 3,
    splits: tuple[str, ...] | None = None,
    **columns: Any,
) -> Boxes:
    """Boxes of (image, xywh, label), two classes."""
    made = BoxColumns()
    for image, xywh, label in rows:
        made.image.append(image)
        made.xywh.extend(xywh)
        made.labels.append(label)
    for name, values in columns.items():
        getattr(made, name).extend(values)
    names = [f"{i}.png" for i in range(images)]
    return made.boxes("boxes.json", names, ("cell", "dust"), splits=splits)


@settings(deadline=None)
@given(st.lists(BOX, max_size=6), st.lists(BOX, max_size=6))
def test_iou_is_that_of_torchvision(first: list[Any], second: list[Any]) -> None:
    import torch

    import_torchvision()
    from torchvision.ops import box_iou

    a, b = (np.array(some, float).reshape(-1, 4) for some in (first, second))
    corners = [
        torch.from_numpy(np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], axis=1)) for x in (a, b)
    ]
    wanted = np.nan_to_num(box_iou(*corners).numpy(), nan=0.0)  # 0 / 0 of empty boxes
    np.testing.assert_allclose(overlaps(a, b), wanted, atol=1e-12)


def test_a_crowd_is_counted_as_pycocotools_does() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 50, (7, 4)), rng.uniform(0, 50, (5, 4))
    np.testing.assert_allclose(overlaps(a, b), mask.iou(a, b, [0] * 5))
    np.testing.assert_allclose(overlaps(a, b, of_first=True), mask.iou(a, b, [1] * 5))


def test_thresholds() -> None:
    truth, labels = np.array([[0, 0, 10, 10], [50, 50, 10, 10]]), np.array([1, 0])
    proposals = np.array(
        [
            [0, 0, 10, 5],
            [0, 0, 10, 4.9],
            [0, 0, 10, 3],
            [0, 0, 10, 2.9],
            [50, 50, 9, 9],
            [9, 9, 0, 0],
        ]
    )
    found = match_proposals(proposals, truth, labels)
    assert found.labels.tolist() == [1, UNUSED, UNUSED, BACKGROUND, 0, BACKGROUND]
    assert found.boxes.tolist() == [0, 0, 0, 0, 1, -1]


def test_crowds_give_no_label_and_no_background() -> None:
    truth = np.array([[0, 0, 100, 100], [10, 10, 10, 10]])
    proposals = np.array([[40, 40, 10, 10], [10, 10, 10, 10], [200, 200, 5, 5]])
    found = match_proposals(proposals, truth, np.array([0, 1]), np.array([True, False]))
    assert found.labels.tolist() == [UNUSED, 1, BACKGROUND]


def test_no_boxes_and_no_proposals() -> None:
    none = np.zeros((0, 4))
    assert match_proposals(np.ones((2, 4)), none, none[:, 0]).labels.tolist() == [BACKGROUND] * 2
    assert len(match_proposals(none, np.ones((2, 4)), np.zeros(2)).labels) == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b, y = rng.uniform(0, 50, (101, 4)), rng.uniform(0, 50, (9, 4)), rng.integers(0, 3, 9)
    whole = match_proposals(a, b, y)
    monkeypatch.setattr("cafe.datasets.boxes.matching._PAIRS", 20)
    for one, other in zip(whole, match_proposals(a, b, y), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(deadline=None)
@given(st.lists(BOX, min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_suppression_is_the_greedy_one(boxes: list[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    xywh, classes = np.array(boxes, float), rng.integers(0, 2, len(boxes))
    scores = rng.permutation(len(boxes)) / len(boxes)
    kept: list[int] = []
    for row in np.argsort(-scores):
        mates = [k for k in kept if classes[k] == classes[row]]
        if not mates or overlaps(xywh[row], xywh[mates]).max() <= 0.5:
            kept.append(int(row))
    assert suppress(xywh, scores, classes, 0.5).tolist() == kept


def test_suppression_is_that_of_torchvision() -> None:
    import torch

    import_torchvision()
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(2)
    xywh, scores = rng.uniform(0, 40, (200, 4)), rng.random(200)
    classes = rng.integers(0, 3, 200)
    corners = torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))
    try:
        kept = batched_nms(corners, torch.from_numpy(scores), torch.from_numpy(classes), 0.4)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torchvision's operators do not load: {error}"[:90])
    assert suppress(xywh, scores, classes, 0.4).tolist() == kept.tolist()


@pytest.fixture
def labelled() -> Boxes:
    """A cell in each split, and a speck of dust in train; image 3 has no label."""
    rows = [(0, (0, 0, 10, 10), 0), (0, (50, 0, 10, 10), 1), (1, (0, 0, 10, 10), 0)]
    rows.append((2, (0, 0, 10, 10), 0))
    return make_boxes(rows, 4, ("train", "val", "test", ""))


def propose(*rows: tuple[int, tuple[float, ...]], images: int = 5) -> Boxes:
    return make_boxes([(image, xywh, -1) for image, xywh in rows], images)


def test_every_proposal_becomes_what_it_is(labelled: Boxes) -> None:
    same, near, apart = (0, 0, 10, 9), (0, 0, 10, 4), (30.0, 30.0, 8.0, 8.0)
    proposals = propose(
        *((image, box) for image in (0, 1, 2) for box in (same, near, apart)), (3, apart), (4, same)
    )
    joined = join_proposals(labelled, proposals)
    boxes, free = joined.labelled, joined.unlabelled
    assert boxes.class_names == ("cell", "dust", "background")
    assert boxes.images == tuple(f"{i}.png" for i in range(5))
    assert list(zip(boxes.image.tolist(), boxes.labels.tolist(), strict=True)) == [
        (0, 0), (0, 1), (1, 0), (2, 0),  # labelled
        (0, 0),  # matched, in train alone
        (0, 2), (1, 2), (2, 2),  # background, in every split
    ]  # fmt: skip
    assert free.image.tolist() == [3, 4]
    assert (free.labels == -1).all()
    assert len(set(boxes.box_ids.tolist())) == len(boxes)
    assert len(boxes.category_ids) == 3
    assert joined.note == (
        "11 proposals: 1 with the label of a box, 3 of background, 2 without a label, 5 unused."
    )


def test_nothing_is_learnt_from_test_images_without_a_box() -> None:
    """A split file may list images on which nothing is: they are of their split all the same."""
    rows = [(0, (0, 0, 10, 10), 0), (1, (0, 0, 10, 10), 0), (5, (0, 0, 10, 10), -1)]
    boxes = make_boxes(rows, 6, ("train", "test", "train", "val", "test", "train"))
    apart = (30.0, 30.0, 8.0, 8.0)
    joined = join_proposals(boxes, propose(*((image, apart) for image in range(6)), images=6))
    assert joined.unlabelled.image.tolist() == [2, 5]  # a box without a label is no label
    assert joined.labelled.image.tolist() == [0, 1, 5, 0, 1]


def test_a_category_of_background_may_have_no_box() -> None:
    boxes = replace(
        make_boxes([(0, (0, 0, 10, 10), 1), (0, (50, 0, 10, 10), 2)], 1, ("train",)),
        class_names=("background", "cell", "dust"),
        category_ids=np.arange(3),
    )
    joined = join_proposals(boxes, propose((0, (30.0, 30.0, 8.0, 8.0)), images=1)).labelled
    labels, names = relabelled(joined, boxes, boxes.labels - 1, ("cell", "dust"))
    assert names == ("cell", "dust", "background")
    assert labels.tolist() == [0, 1, 2]


def test_background_is_capped_and_drawn_by_the_seed(labelled: Boxes) -> None:
    many = propose(*((0, (20.0 + i, 30.0, 4.0, 4.0)) for i in range(40)))

    def drawn(**how: Any) -> list[list[float]]:
        boxes = join_proposals(labelled, many, **how).labelled
        return boxes.xywh[boxes.labels == 2].tolist()

    assert len(drawn()) == 1  # as many as train's largest class has
    assert len(drawn(background=7)) == 7
    assert len(drawn(background=100)) == 40
    assert drawn(background=7) == drawn(background=7)
    assert drawn(background=7, seed=1) != drawn(background=7)


def test_without_background_what_is_apart_has_no_label(labelled: Boxes) -> None:
    joined = join_proposals(
        labelled, propose((0, (30, 30, 8, 8)), (2, (30, 30, 8, 8))), background=0
    )
    assert joined.labelled.class_names == ("cell", "dust")
    assert joined.unlabelled.image.tolist() == [0]  # never of a test image


def test_nothing_proposed_and_a_negative_cap_are_refused(labelled: Boxes) -> None:
    with pytest.raises(DatasetError, match="has no box on any image"):
        join_proposals(labelled, propose())
    with pytest.raises(DatasetError, match="background must be at least 0; got -1"):
        join_proposals(labelled, propose((0, (1, 1, 2, 2))), background=-1)
