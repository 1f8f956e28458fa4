"""Choosing among candidates: one rule of folds and one of ties, for every method."""

from __future__ import annotations

import pytest
import torch
from drawing import CLASSES, draw_images, draw_task
from needing import settings_for

from cafe.engine import Recipe, Run
from cafe.errors import InputError
from cafe.features.task import Task
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job, Protocol, Validation
from cafe.methods.catalog import CATALOG, make_method
from cafe.methods.linear import Prototypes
from cafe.methods.validation import choose, folds_for, pick_best, train_with_folds
from cafe.study.plan import StudyPlan, describe_protocol

pytestmark = pytest.mark.usefixtures("one_thread")

CV = Validation("cv")


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("counts", [(1,) * CLASSES, (1, 0, 1, 1, 0)])
def test_one_shot_under_cv_keeps_the_defaults(name: str, counts: tuple[int, ...]) -> None:
    settings = {"epochs": 3, **settings_for(name)}
    method = make_method(name, Context(precision="fp32"), settings)
    train = draw_task(counts)
    chosen, default = method.fit(train, validation=CV), method.fit(train)
    assert chosen.params == default.params
    for key, tensor in default.tensors().items():
        assert torch.equal(chosen.tensors()[key], tensor)


def test_ratios_are_no_exception() -> None:
    method = make_method("clip-adapter", Context(), {"epochs": 3, "ratios": (0.05, 0.6)})
    assert method.fit(draw_task((1,) * CLASSES), validation=CV).params["ratio"] == 0.2


class TestFolds:
    @pytest.mark.parametrize(("shots", "count"), [(1, 0), (2, 2), (3, 3), (4, 4), (8, 4)])
    def test_cv_has_as_many_as_shots_and_at_most_four(self, shots: int, count: int) -> None:
        train = draw_task((shots,) * CLASSES)
        folds = folds_for(Job(train, CV))
        assert len(folds) == count
        for fold in folds:
            assert len(fold.train.features) + len(fold.held_out) == len(train.features)
            assert fold.train.text is train.text

    def test_validation_images_are_one_fold(self) -> None:
        train, images = draw_task((1,) * CLASSES), draw_images()
        (fold,) = folds_for(Job(train, Validation("few-shot", images)))
        assert fold.train is train
        assert fold.held_out is images

    def test_none_has_none(self) -> None:
        assert folds_for(Job(draw_task())) == []

    @pytest.mark.parametrize("protocol", ["few-shot", "full"])
    def test_a_protocol_without_its_images_is_refused(self, protocol: Protocol) -> None:
        with pytest.raises(InputError, match=f"'{protocol}' has no images to choose by; pass"):
            Validation(protocol)

    def test_every_set_is_trained_on_once(self) -> None:
        held_out, train = Validation("full", draw_images()), draw_task()
        jobs = [Job(train, held_out, 0), Job(draw_task((2,) * CLASSES), CV, 1), Job(train, seed=2)]
        folds = [folds_for(job) for job in jobs]
        sets: list[TrainingSet] = []

        def runs_for(train: TrainingSet, place: int, seed: int) -> list[Run]:
            sets.append(train)
            return [Run(Prototypes(), place, seed, Recipe(epochs=1))]

        fitted = train_with_folds(runs_for, jobs, folds, Context())
        assert len(sets) == 5
        for job, own, ((on_shots,), on_folds) in zip(jobs, folds, fitted, strict=True):
            assert sets[on_shots.run.data] is job.train
            assert on_shots.run.seed == job.seed
            assert [fold for fold, _ in on_folds] == own
            for fold, (trained,) in on_folds:
                assert sets[trained.run.data] is fold.train
                assert trained.run.seed == job.seed


class TestPickBest:
    @pytest.mark.parametrize(
        ("accuracies", "losses", "place"),
        [
            ([0.7, 0.8, 0.6], [0.1, 0.9, 0.1], 1),  # accuracy goes first
            ([5, 7, 7, 7], [0.1, 3.0, 2.0, 2.5], 2),  # then the loss
            ([5, 7, 7, 7], [0.1, 2.0, 2.0, 2.5], 1),  # then the first, the most conservative
            ([0.8, 0.8], [2.0 + 1e-9, 2.0], 0),  # to rounding, in the loss
            ([0.1 + 0.2, 0.3], [1.0, 1.0], 0),
            ([0.3, 0.1 + 0.2], [1.0, 1.0], 0),  # and in the accuracy
            ([1, 1], [1e-8, 1e-9], 0),
            ([0, 0], [1.0, 0.9], 1),
            ([0.5], [0.5], 0),
        ],
    )
    def test_rule(self, accuracies: list[float], losses: list[float], place: int) -> None:
        assert pick_best(accuracies, losses) == place
        assert pick_best(torch.tensor(accuracies), torch.tensor(losses).double()) == place

    def test_over_all_folds_together(self) -> None:
        folds = folds_for(Job(draw_task((2,) * CLASSES), CV))
        right = [torch.eye(CLASSES)[fold.held_out.y] for fold in folds]
        logits = [torch.stack([0 * z, -z, z, 2 * z]) for z in right]
        assert choose("abcd", "e", folds, logits) == "d"

    def test_default_where_there_is_no_choice(self) -> None:
        folds = folds_for(Job(draw_task(), CV))
        assert choose((), "default", folds, []) == "default"
        assert choose("ab", "default", [], []) == "default"


def words(counts: tuple[int, ...], validation: Protocol, *shots: object, **plan: object) -> str:
    train: TrainingSet = draw_task(counts)
    splits = {"train": train.features, "test": draw_images()}
    methods = plan.pop("methods", ["clip-adapter"])
    made = StudyPlan(methods, shots, [0], validation, plan)  # type: ignore[arg-type]
    return describe_protocol(Task("noise", "drawn", "none", train.text, splits), made).words


class TestWords:
    defaults = "One shot leaves nothing to hold out: there every method keeps its defaults."
    weighed = "The members of auto are weighed inside the training shots."

    @pytest.mark.parametrize(
        ("counts", "shots", "said"),
        [
            ((4,) * CLASSES, (1, 4), True),
            ((4,) * CLASSES, (2, 4), False),
            ((4,) * CLASSES, ("all",), False),
            ((1,) * CLASSES, ("all",), True),
        ],
    )
    def test_cv_says_where_it_cannot_choose(
        self, counts: tuple[int, ...], shots: tuple[object, ...], said: bool
    ) -> None:
        assert (self.defaults in words(counts, "cv", *shots)) == said
        assert self.defaults not in words(counts, "none", *shots)

    @pytest.mark.parametrize("protocol", ["cv", "few-shot", "full"])
    def test_auto_is_weighed_inside_the_shots(self, protocol: Protocol) -> None:
        assert self.weighed in words((4,) * CLASSES, protocol, 4, methods=["auto"])
        assert self.weighed in words((4,) * CLASSES, protocol, 4, ratio="auto")
        assert self.weighed not in words((4,) * CLASSES, protocol, 4)
