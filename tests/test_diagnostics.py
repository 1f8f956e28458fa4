"""What a page shows of a result: counted by hand on a few images."""

from __future__ import annotations

import pytest
import torch

from cafe.results.image_scores import ImageScores
from cafe.study.diagnostics import diagnose

Y = torch.tensor([0, 0, 1, 1, 1])
RIGHT = torch.nn.functional.one_hot(Y, 3).float() * 10
WRONG = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 0, 1]), 3).float() * 10


def look_at(z: torch.Tensor, y: torch.Tensor = Y, temperature: float | None = None) -> ImageScores:
    scores = ImageScores.room_for(y, z.shape[-1], temperature)
    scores.add(z)
    return scores


def test_means_over_seeds() -> None:
    found = diagnose(map(look_at, (RIGHT, WRONG)))
    assert found.page["per_class"] == [75.0, pytest.approx(66.67), None]
    assert found.metrics["mean_class_accuracy"] == pytest.approx((100 + (50 + 100 / 3) / 2) / 2)
    assert found.metrics["top5_accuracy"] == 100
    assert set(found.metrics) == {"mean_class_accuracy", "top5_accuracy", "nll", "ece"}


def test_the_calibration_error_before_the_temperature_and_under_it() -> None:
    found = diagnose(look_at(z, temperature=2.0) for z in (RIGHT, WRONG)).metrics
    for name, t in (("ece", 1.0), ("ece_calibrated", 2.0)):
        errors = [look_at(z / t).expected_calibration_error() for z in (RIGHT, WRONG)]
        assert found[name] == pytest.approx(sum(errors) / 2)


def test_confusions_name_their_images() -> None:
    first, second = diagnose(map(look_at, (RIGHT, WRONG))).page["confusions"]
    assert (first["label"], first["predicted"], first["images"], first["rows"]) == (1, 0, 1, [2, 3])
    assert first["share"] == pytest.approx(33.33)
    assert (second["label"], second["predicted"], second["rows"]) == (0, 1, [1])


def test_reliability_bins_give_the_calibration_error() -> None:
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 2
    y = torch.randint(3, (400,), generator=torch.Generator().manual_seed(1))
    scores = look_at(z, y)
    bins = diagnose([scores]).page["reliability"]
    assert sum(one["images"] for one in bins) == 400
    error = sum(one["images"] / 400 * abs(one["accuracy"] - one["confidence"]) for one in bins)
    assert error == pytest.approx(scores.expected_calibration_error(), abs=0.01)
