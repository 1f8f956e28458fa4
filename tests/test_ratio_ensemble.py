from __future__ import annotations

import json
import math

import pytest
import torch
from drawing import CLASSES, draw_images, draw_task
from scipy.optimize import minimize
from torch import Tensor

from cafe.engine import Recipe
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.clip_adapter.method import (
    AdapterHead,
    ClipAdapter,
    ClipAdapterBoth,
    ClipAdapterText,
)
from cafe.methods.clip_adapter.ratio_ensemble import RATIOS, ratio_candidates
from cafe.methods.ensemble import EnsembleHead, Member, make_ensemble
from cafe.methods.head import Head
from cafe.methods.stacking import ENOUGH, log_likelihood, stack, weighing_folds
from cafe.methods.validation import Fold
from cafe.methods.zero_shot import ZeroShot

FP32 = Context(precision="fp32")
QUICK = Recipe(epochs=4)
TEST = draw_images()

pytestmark = pytest.mark.usefixtures("one_thread")


def fit_ensemble(
    train: TrainingSet, kind: type[ClipAdapter] = ClipAdapter, seed: int = 0
) -> EnsembleHead:
    head = kind("auto", recipe=QUICK, context=FP32).fit(train, seed=seed)
    assert isinstance(head, EnsembleHead)
    return head


def numbered(counts: tuple[int, ...]) -> TrainingSet:
    """A task whose first feature is the number of the row."""
    train = draw_task(counts)
    x = train.features.x.clone()
    x[:, 0] = torch.arange(len(x))
    return TrainingSet(Features(x, train.features.y), train.text)


class TestWeighingFolds:
    @pytest.mark.parametrize("counts", [(2,) * 5, (4,) * 5, (16,) * 5, (1, 7, 2, 0, 3)])
    def test_every_image_but_lone_ones_is_held_out_once(self, counts: tuple[int, ...]) -> None:
        train = numbered(counts)
        folds = weighing_folds(train, 0)
        held = torch.cat([fold.held_out.x[:, 0] for fold in folds])
        company = torch.tensor(counts)[train.features.y] > 1
        assert sorted(held.tolist()) == torch.nonzero(company).flatten().tolist()
        for fold in folds:
            both = torch.cat([fold.held_out.x[:, 0], fold.train.features.x[:, 0]])
            assert sorted(both.tolist()) == list(range(sum(counts)))

    def test_folds_share_every_class_evenly(self) -> None:
        for fold in weighing_folds(draw_task((4,) * CLASSES), 3):
            assert torch.bincount(fold.held_out.y).tolist() == [1] * CLASSES

    def test_lone_images_are_trained_on_in_every_fold(self) -> None:
        folds = weighing_folds(draw_task((8, 1, 1, 1, 1)), 0)
        assert [fold.held_out.y.tolist() for fold in folds] == [[0, 0]] * 4

    def test_stops_when_enough_is_held_out(self) -> None:
        folds = weighing_folds(draw_task((100,) * CLASSES), 0)
        assert [len(fold.held_out) for fold in folds] == [125, 125]
        assert ENOUGH == 150

    @pytest.mark.parametrize("counts", [(1,) * 5, (0, 1, 0, 0, 0), (0,) * 5])
    def test_nothing_to_deal(self, counts: tuple[int, ...]) -> None:
        assert weighing_folds(draw_task(counts), 0) == []

    def test_is_a_function_of_labels_and_seed(self) -> None:
        def deal(seed: int) -> list[list[float]]:
            folds = weighing_folds(numbered((4,) * CLASSES), seed)
            return [fold.held_out.x[:, 0].tolist() for fold in folds]

        assert deal(1) == deal(1) != deal(2)


def test_the_likelihood_is_that_of_an_image_s_own_class() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0], [9.0, 9.0, 1.0]], [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]])
    found = log_likelihood(logits, torch.tensor([1, 0]))
    expected = logits.double().log_softmax(-1)[:, [0, 1], [1, 0]]
    torch.testing.assert_close(found, expected)


class TestStack:
    log_likelihoods = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)).double() - 1
    y = torch.arange(30) % 3

    def test_is_the_maximum(self) -> None:
        prior = torch.tensor([1.0, 1.0, 0.5, 2.0])
        found = stack(self.log_likelihoods, self.y, prior)

        def loss(w: object) -> float:
            a = torch.softmax(torch.tensor(w, dtype=torch.float64), 0)
            mixed = (a.log()[:, None] + self.log_likelihoods).logsumexp(0).sum()
            return -float(mixed + (prior * a.log()).sum())

        best = minimize(loss, [0.0] * 4, options={"gtol": 1e-8})
        expected = torch.softmax(torch.tensor(best.x), 0)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    def test_classes_share_the_vote(self) -> None:
        """Twenty copies of one image say as much as one does, but for the prior's share."""
        log_likelihoods = torch.tensor([[0.0, -3.0], [-3.0, 0.0]]).double()
        copies = torch.tensor([0] + [1] * 20)
        found = stack(log_likelihoods[:, copies], copies, torch.ones(2))
        assert found[0] == pytest.approx(0.5, abs=1e-6)

    def test_no_image_leaves_the_prior(self) -> None:
        found = stack(self.log_likelihoods[:, :0], self.y[:0], torch.tensor([1.0, 1.0, 1.0, 5.0]))
        assert found.tolist() == [0.125, 0.125, 0.125, 0.625]

    def test_many_images_overrule_the_prior(self) -> None:
        log_likelihoods = torch.stack(
            [torch.full((3000,), -0.1), torch.full((3000,), -2.0)]
        ).double()
        assert stack(log_likelihoods, torch.arange(3000) % 10, torch.ones(2))[0] > 0.99


class TestEnsemble:
    def test_is_the_mean_of_probabilities(self) -> None:
        head = fit_ensemble(draw_task())
        assert len(head.heads) == len(head.params["members"]) == 1 + len(RATIOS)
        mixture = head.tensors()["mixture"]
        answers = torch.stack([one.logits(TEST.x).softmax(-1) for one in head.heads])
        expected = (mixture[:, None, None] * answers).sum(0)
        torch.testing.assert_close(head.logits(TEST.x).softmax(-1), expected)
        torch.testing.assert_close(head.logits(TEST.x).exp().sum(-1), torch.ones(len(TEST)))
        weights = [member["weight"] for member in head.params["members"]]
        torch.testing.assert_close(torch.tensor(weights), mixture, atol=6e-4, rtol=0)

    def test_members_are_what_their_ratio_alone_gives(self) -> None:
        train = draw_task()
        for member, head in zip(
            fit_ensemble(train).params["members"], fit_ensemble(train).heads, strict=True
        ):
            alone = ClipAdapter(member["ratio"], recipe=QUICK, context=FP32).fit(train)
            torch.testing.assert_close(head.logits(TEST.x), alone.logits(TEST.x), atol=1e-3, rtol=0)

    def test_best_single_is_an_adapter_by_itself(self) -> None:
        ensemble = fit_ensemble(draw_task((8,) * CLASSES))
        best = ensemble.best_single()
        ratios = [member["ratio"] for member in ensemble.params["members"]]
        mean = float(ensemble.tensors()["mixture"] @ torch.tensor(ratios))
        assert ensemble.params["best_ratio"] == pytest.approx(mean, abs=1e-3)
        nearest = min(RATIOS, key=lambda ratio: abs(math.log(ratio / mean)))
        assert best.params["ratio"] == nearest
        assert best.method == "clip-adapter"
        assert "members" not in best.params
        again = ClipAdapter.make_head(best.tensors(), json.loads(json.dumps(best.params)))
        assert isinstance(again, AdapterHead)
        assert torch.equal(again.logits(TEST.x), best.logits(TEST.x))

    def test_survives_a_file(self) -> None:
        head = fit_ensemble(draw_task())
        params = json.loads(json.dumps(dict(head.params)))
        again = ClipAdapter.make_head(head.tensors(), params)
        assert isinstance(again, EnsembleHead)
        assert again.method == "clip-adapter"
        assert again.params["ratio"] == "auto"
        assert torch.equal(again.logits(TEST.x), head.logits(TEST.x))

    def test_drops_what_weighs_nothing_but_the_best_single(self) -> None:
        train, y = draw_task(), torch.arange(2000) % CLASSES
        rows = torch.full((5, 2000), -1.0).double()
        rows[1, ::2], rows[1, 1::2] = (
            -0.01,
            -5.0,
        )  # two specialists beat all others
        rows[4, 1::2], rows[4, ::2] = -0.01, -5.0
        one = {"down": torch.zeros(2, 24), "up": torch.zeros(2, 24)}
        ratios = (0.05, 0.1, 0.2, 0.4, 0.8)
        members = [
            Member({"kind": "adapter", "ratio": ratio}, one, [row])
            for ratio, row in zip(ratios, rows, strict=True)
        ]
        folds = [Fold(train, Features(torch.zeros(2000, 24), y))]
        params = {"method": "clip-adapter", "adapter": "clip-adapter"}
        head = make_ensemble(members, folds, train, params)
        assert [member["ratio"] for member in head.params["members"]] == [0.1, 0.4, 0.8]
        assert head.params["best_ratio"] == pytest.approx(0.45, abs=0.01)
        assert head.best_single().params["ratio"] == 0.4
        assert head.tensors()["down"].shape == (3, 2, 24)
        assert head.tensors()["mixture"].sum() == pytest.approx(1)

    @pytest.mark.parametrize("kind", [ClipAdapterText, ClipAdapterBoth])
    def test_other_branches_have_it_too(self, kind: type[ClipAdapter]) -> None:
        train = draw_task()
        head = fit_ensemble(train, kind)
        assert head.method == kind.name == head.best_single().method
        again = kind.make_head(head.tensors(), head.params)
        assert torch.equal(again.logits(TEST.x), head.logits(TEST.x))
        member = head.params["members"][-1]
        ratios = {name: value for name, value in member.items() if name.endswith("ratio")}
        alone = kind(next(iter(ratios.values())), recipe=QUICK, context=FP32).fit(train)
        torch.testing.assert_close(
            head.heads[-1].logits(TEST.x), alone.logits(TEST.x), atol=1e-3, rtol=0
        )

    @pytest.mark.parametrize(
        "counts", [(1,) * CLASSES, (1, 7, 2, 4, 3), (3, 3, 0, 3, 3), (0, 1, 0, 0, 0)]
    )
    def test_takes_any_counts(self, counts: tuple[int, ...]) -> None:
        logits = fit_ensemble(draw_task(counts)).logits(TEST.x)
        assert logits.shape == (len(TEST), CLASSES)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("counts", [(1,) * CLASSES, (0, 1, 0, 0, 0)])
    def test_one_shot_leaves_the_prior(self, counts: tuple[int, ...]) -> None:
        head = fit_ensemble(draw_task(counts))
        assert [m["weight"] for m in head.params["members"]] == [0.4, 0.2, 0.2, 0.2]
        assert {m["held_out_nll"] for m in head.params["members"]} == {None}

    def test_fits_many_as_one_by_one(self) -> None:
        trains = [draw_task(), draw_task((1,) * CLASSES, seed=1), draw_task((2, 9, 1, 1, 0))]
        many = ClipAdapter("auto", recipe=QUICK, context=FP32).fit_many(
            [Job(train, seed=seed) for seed, train in enumerate(trains)]
        )
        for seed, (train, head) in enumerate(zip(trains, many, strict=True)):
            alone = fit_ensemble(train, seed=seed)
            torch.testing.assert_close(probabilities(head), probabilities(alone), atol=1e-3, rtol=0)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_runs_on_cuda(self) -> None:
        train = draw_task()
        there = TrainingSet(train.features.to("cuda"), train.text.to("cuda"))
        context = Context(device=torch.device("cuda"), precision="fp32")
        head = ClipAdapter("auto", recipe=QUICK, context=context).fit(there)
        found = head.logits(TEST.x.cuda()).softmax(-1).cpu()
        torch.testing.assert_close(found, probabilities(fit_ensemble(train)), atol=1e-2, rtol=0)


def probabilities(head: Head) -> Tensor:
    return head.logits(TEST.x).softmax(-1)


def test_a_pool_of_nothing_learned_is_zero_shot() -> None:
    train = draw_task()
    still = ClipAdapter("auto", recipe=Recipe(lr=1e-12, epochs=1), context=FP32).fit(train)
    assert isinstance(still, EnsembleHead)
    zero_shot = ZeroShot().fit(train)
    torch.testing.assert_close(
        still.heads[0].logits(TEST.x), zero_shot.logits(TEST.x), atol=1e-4, rtol=0
    )


def test_jobs_of_the_same_shots_keep_their_own_recipes() -> None:
    task, asked = draw_task((2,) * CLASSES), [Recipe(epochs=1), Recipe(epochs=2)]
    recipes = iter(asked)
    adapter = ClipAdapter(context=Context(precision="fp32"))
    jobs = [Job(task, seed=0), Job(task, seed=1)]
    found = ratio_candidates(adapter, jobs, "auto", None, lambda _, __: next(recipes))
    assert [one.params["epochs"] for one in found] == [1, 2]
