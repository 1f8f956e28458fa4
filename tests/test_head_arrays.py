"""Heads answer in the kind that they are asked in: tensors for tensors, arrays for arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from digits_run import digits_run

import cafe
from cafe.errors import InputError
from cafe.results.runs import head_file
from cafe.results.saved_head import SavedHead


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedHead:
    work = digits_run(tmp_path_factory)
    return cafe.load_head(work / "runs/mine" / head_file("clip-adapter", 4, 0))


@pytest.fixture
def features(tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = cafe.FeatureCache.open(digits_run(tmp_path_factory) / "cache/digits/nano.glyphs.h5")
    return cache.read("test", range(50), dtype=np.float32).features


def test_arrays_give_arrays(saved: SavedHead, features: Any) -> None:
    tensor = torch.from_numpy(features)
    for answer in (saved.probabilities, saved.head):
        expected = answer(tensor)
        assert isinstance(expected, torch.Tensor)
        assert not expected.requires_grad
        for array in (features, features.astype(np.float64), np.asfortranarray(features)):
            found = answer(array)
            assert isinstance(found, np.ndarray)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert saved.probabilities(features[::5]).shape == (10, 10)
    frozen = features.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(saved.probabilities(frozen), saved.probabilities(features))
    assert saved.scores(features) is None


@pytest.mark.parametrize("shape", [(512,), (3, 511), (2, 3, 512), (0,)])
def test_other_shapes_are_refused(saved: SavedHead, shape: tuple[int, ...]) -> None:
    for x in (np.zeros(shape), torch.zeros(shape)):
        with pytest.raises(InputError, match=r"features must be \(N, 512\), .* got \("):
            saved.probabilities(x)  # type: ignore[type-var]


def test_no_rows_give_no_rows(saved: SavedHead) -> None:
    assert saved.probabilities(np.zeros((0, 512))).shape == (0, 10)
