"""Features in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cafe.errors import InputError
from cafe.extract.importers import import_features
from cafe.features.task import StoredFeatures, load_task
from cafe.features.tensors import ClassText, Features
from cafe.store import FeatureCache


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "toy.npz",
        train_features=generator.normal(size=(30, 8)).astype(np.float16),
        train_labels=np.arange(30) % 3,
        test_features=generator.normal(size=(9, 8)).astype(np.float16),
        test_labels=np.arange(9) % 3,
        text_prompts=generator.normal(size=(3, 2, 8)),
        class_names=np.array(["a", "b", "c"]),
    )
    return import_features(tmp_path / "toy.npz", tmp_path / "toy" / "model.tag.h5")


def test_stored_rows_are_the_rows_of_the_whole(cache: FeatureCache) -> None:
    stored = StoredFeatures(cache, "train")
    rows = torch.tensor([7, 2, 29])
    part = stored[rows]
    assert "whole" not in vars(stored)  # nothing but the rows was read
    assert torch.equal(part.x, stored.x[rows])
    assert torch.equal(part.y, stored.y[rows])
    assert torch.equal(stored[rows].x, part.x)
    assert torch.equal(stored.unit, stored.whole.unit)
    assert stored.views is None
    assert len(stored) == 30


def test_stored_rows_by_mask(cache: FeatureCache) -> None:
    stored = StoredFeatures(cache, "train")
    mask = stored.y == 1
    assert torch.equal(stored[mask].x, stored.whole[mask].x)


def test_a_task_reads_text_and_labels_alone(cache: FeatureCache) -> None:
    task = load_task(cache)
    assert task.width == 8
    assert task.text.names == ("a", "b", "c")
    assert all(isinstance(split, StoredFeatures) for split in task.splits.values())
    assert task.splits["test"].to("cpu").x.dtype == torch.float32


def test_class_weights_are_the_mean_of_unit_prompts() -> None:
    prompts = torch.randn(4, 3, 8)
    text = ClassText(prompts, ("a", "b", "c", "d"), 100.0)
    units = prompts / prompts.norm(dim=-1, keepdim=True)
    mean = units.mean(dim=1)
    torch.testing.assert_close(text.weights, mean / mean.norm(dim=-1, keepdim=True))


def test_padding_prompts_do_not_count() -> None:
    prompts = torch.randn(2, 3, 8)
    padded = torch.cat([prompts, torch.zeros(2, 2, 8)], dim=1)
    plain = ClassText(prompts, ("a", "b"), 1.0).weights
    torch.testing.assert_close(ClassText(padded, ("a", "b"), 1.0).weights, plain)


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"got \(3, 4\) and \(2,\)"):
        Features(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))
