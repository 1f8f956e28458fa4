"""Few-shot draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.features.splits import (
    draw_folds,
    draw_shots,
    draw_validation,
    first_folds,
)

labels_of = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(torch.tensor)
seeds = st.integers(0, 2**31)


@given(labels_of, st.integers(1, 20), seeds)
def test_takes_k_of_each_class_or_all(labels: torch.Tensor, shots: int, seed: int) -> None:
    rows = draw_shots(labels, shots, seed)
    assert len(set(rows.tolist())) == len(rows)
    there, drawn = labels.bincount(), labels[rows].bincount(minlength=int(labels.max()) + 1)
    assert torch.equal(drawn, there.clamp(max=shots))


@given(labels_of, st.integers(1, 8), seeds)
def test_draws_nest(labels: torch.Tensor, shots: int, seed: int) -> None:
    small, large = draw_shots(labels, shots, seed), draw_shots(labels, shots + 1, seed)
    assert set(small.tolist()) <= set(large.tolist())


@given(labels_of, seeds)
def test_depends_on_nothing_else(labels: torch.Tensor, seed: int) -> None:
    before = draw_shots(labels, 3, seed)
    torch.manual_seed(1)
    torch.rand(7)
    assert torch.equal(before, draw_shots(labels, 3, seed))


def test_the_draw_is_fixed_for_ever() -> None:
    labels = torch.arange(3).repeat_interleave(10)
    assert draw_shots(labels, 3, 0).tolist() == [6, 1, 0, 17, 13, 15, 23, 24, 28]


def test_seeds_differ() -> None:
    labels = torch.arange(5).repeat_interleave(50)
    assert not torch.equal(draw_shots(labels, 8, 0), draw_shots(labels, 8, 1))


def test_a_class_does_not_depend_on_the_others() -> None:
    alone = torch.zeros(20, dtype=torch.long)
    beside = torch.cat([alone, torch.ones(13, dtype=torch.long)])
    assert torch.equal(draw_shots(alone, 4, 7), draw_shots(beside, 4, 7)[:4])


def test_all_takes_every_row() -> None:
    assert draw_shots(torch.tensor([1, 0, 1]), "all", 0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("shots", "taken"), [(1, 1), (2, 2), (4, 4), (16, 4)])
def test_validation_takes_at_most_four(shots: int, taken: int) -> None:
    labels = torch.arange(3).repeat_interleave(20)
    rows = draw_validation(labels, shots, 0)
    assert labels[rows].bincount().tolist() == [taken] * 3


@given(labels_of, seeds)
def test_folds_part_the_rows(labels: torch.Tensor, seed: int) -> None:
    folds = min(int(labels.bincount().max()), 4)
    drawn = draw_folds(labels, seed)
    if folds < 2:
        assert drawn == []
        return
    assert len(drawn) == folds
    held_out = []
    for train, test in drawn:
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
        held_out += test.tolist()
        assert set(labels[test].tolist()) <= set(labels[train].tolist())  # none unseen in training
        counts = labels[test].bincount(minlength=7)
        share = labels.bincount(minlength=7) / folds
        assert bool(((counts >= share.floor()) & (counts <= share.ceil())).all())
    company = labels.bincount()[labels] > 1
    assert sorted(held_out) == torch.nonzero(company).flatten().tolist()


@pytest.mark.parametrize("labels", [[], [0], [3], [0, 1, 2]])
def test_nothing_is_held_out_of_one_shot(labels: list[int]) -> None:
    assert draw_folds(torch.tensor(labels, dtype=torch.int64), 0) == []


def test_the_folds_are_fixed_for_ever() -> None:
    labels = torch.arange(3).repeat(4)
    held_out = [sorted(out.tolist()) for _, out in draw_folds(labels, 0)]
    assert held_out == [[0, 8, 10], [2, 4, 9], [3, 5, 7], [1, 6, 11]]


@pytest.mark.parametrize(("images", "count"), [(0, 0), (1, 1), (3, 1), (4, 2), (9, 3), (99, 4)])
def test_the_first_folds_that_hold_enough(images: int, count: int) -> None:
    folds = draw_folds(torch.arange(3).repeat(4), 0)
    assert first_folds(folds, images) == folds[:count]


@pytest.mark.parametrize(("shots", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_refuses(shots: int, seed: int) -> None:
    with pytest.raises(InputError, match="must be at least"):
        draw_shots(torch.tensor([0, 1]), shots, seed)


def test_groups_stay_in_one_fold_and_single_ones_change_nothing() -> None:
    labels = torch.arange(3).repeat_interleave(8)
    images = np.arange(24) // 2  # two boxes on each
    folds = draw_folds(labels, 0, groups=images)
    assert len(folds) > 1
    for kept, out in folds:
        assert not {*images[kept.numpy()]} & {*images[out.numpy()]}
    alone = draw_folds(labels, 0, groups=np.arange(24)[::-1].copy())
    for some, others in zip(alone, draw_folds(labels, 0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))
