"""Self-training: pseudo-shots of features without labels, kept where held-out shots agree."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Job, Validation
from cafe.methods.catalog import make_method, methods_that_need
from cafe.methods.head import Head
from cafe.methods.self_training import PARAM, SelfTraining, weighted_means

D = 16


def _text(classes: int = 3) -> ClassText:
    noise = torch.Generator().manual_seed(1)
    names = tuple(f"class {c}" for c in range(classes))
    return ClassText(torch.randn(classes, 1, D, generator=noise), names, 20.0)


def _clusters(per_class: int, seed: int, noise: float = 1.0) -> Features:
    """Three clusters in fixed places."""
    centres = 2 * torch.eye(3, D)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat_interleave(per_class)
    return Features(centres[y] + noise * torch.randn(len(y), D, generator=generator), y)


def _fit(
    name: str, train: Features, pool: Tensor, validation: Validation | None = None, **how: Any
) -> Head:
    training = SelfTraining(pool, how.pop("most", 20), how.pop("rounds", 1), (name,))
    method = make_method(name, Context(), {"self_train": training, **how})
    return method.fit(TrainingSet(train, _text()), validation=validation or Validation())


def test_a_pool_of_the_same_clusters_is_kept_and_helps() -> None:
    train, pool, test = _clusters(4, 0), _clusters(200, 1), _clusters(300, 2)
    plain = make_method("nearest-class", Context(), {}).fit(TrainingSet(train, _text()))
    head = _fit("nearest-class", train, pool.x, most=60)
    about = head.params[PARAM]
    assert about["kept"] == 1
    assert about["held_out"] == 12
    assert about["candidates"] == 600
    assert about["accuracy"][1] >= about["accuracy"][0]

    def right(some: Any) -> float:
        return (some(test.x).argmax(1) == test.y).double().mean().item()

    assert right(head) > right(plain) + 0.01


def test_a_misleading_pool_is_not_kept_and_the_head_is_the_plain_one() -> None:
    train = _clusters(8, 0, noise=0.3)
    pool = torch.randn(500, D, generator=torch.Generator().manual_seed(3))
    pool[:, :3] = -pool[:, :3].abs()  # far from every class
    plain = make_method("gda", Context(), {}).fit(TrainingSet(train, _text()))
    head = _fit("gda", train, 50 * pool, most=100, rounds=2)
    about = head.params[PARAM]
    assert about["rounds"] == 2
    assert len(about["loss"]) == 3
    assert about["kept"] == about["loss"].index(min(about["loss"])) or about["kept"] == 0
    if about["kept"] == 0:
        assert torch.equal(head.logits(train.x), plain.logits(train.x))


def test_one_shot_leaves_nothing_to_hold_out() -> None:
    train, pool = _clusters(1, 0), _clusters(50, 1)
    head = _fit("nearest-class", train, pool.x)
    assert head.params[PARAM]["kept"] == 0
    assert head.params[PARAM]["held_out"] == 0


def test_validation_images_judge_where_the_protocol_has_them() -> None:
    train, pool, val = _clusters(1, 0), _clusters(200, 1), _clusters(30, 5)
    head = _fit("nearest-class", train, pool.x, Validation("full", val), most=60)
    about = head.params[PARAM]
    assert about["held_out"] == 90
    assert about["kept"] == 1


@pytest.mark.parametrize("name", [n for n in methods_that_need("") if n != "zero-shot"])
def test_every_method_can_train_itself_and_side_by_side(name: str) -> None:
    trains = [_clusters(2, seed) for seed in (0, 1)]
    pool = _clusters(30, 9).x
    training = SelfTraining(pool, 5, 1, (name,))
    method = make_method(name, Context(), {"self_train": training, "epochs": 2})
    assert method.name == name
    jobs = [Job(TrainingSet(train, _text()), seed=i) for i, train in enumerate(trains)]
    for head in method.fit_many(jobs):
        assert head.method == name
        assert head.logits(pool).shape == (90, 3)
        assert set(head.params[PARAM]) >= {"kept", "taken", "held_out", "accuracy"}


def test_other_methods_stay_as_they_are() -> None:
    training = SelfTraining(torch.randn(5, D), 5, 1, ("gda",))
    method = make_method("nearest-class", Context(), {"self_train": training})
    assert PARAM not in method.fit(TrainingSet(_clusters(2, 0), _text())).params


def test_weights_count_in_means() -> None:
    x = torch.eye(4, D)[:2] * 3
    (mean,) = weighted_means(x, torch.tensor([0.9, 0.3]), 1)
    assert mean.norm() == pytest.approx(3.0)
    assert torch.allclose(mean / 3, normalize(torch.eye(4, D)[0] * 3 + torch.eye(4, D)[1], dim=0))
    apart = weighted_means(torch.eye(4, D), torch.ones(4), 4)
    assert torch.allclose(apart, torch.eye(4, D))
    assert weighted_means(torch.eye(4, D), torch.zeros(4), 2).isfinite().all()


def test_pseudo_shots_never_outweigh_the_shots() -> None:
    train, pool = _clusters(4, 0), _clusters(200, 1)
    seen = []

    class Spy(type(make_method("nearest-class", Context(), {}))):  # type: ignore[misc]
        def fit(self, train: TrainingSet, **options: Any) -> Any:
            seen.append(train.features.y.bincount().max().item())
            return super().fit(train, **options)

    from cafe.methods.self_training import SelfTrained

    method = SelfTrained(Spy(), SelfTraining(pool.x, 100, 1, ("nearest-class",)))
    method.fit(TrainingSet(train, _text()))
    assert max(seen) == 8


@pytest.mark.parametrize(("most", "rounds"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(most: int, rounds: int) -> None:
    with pytest.raises(InputError, match="must be at least 1; got 0"):
        SelfTraining(torch.zeros(1, D), most, rounds)
