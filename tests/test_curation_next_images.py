"""Which images to label next: the strategies on features, and what is refused."""

import numpy as np
import pytest
import torch

import cafe
from cafe.curation.next_images import Strategy, class_answers, next_images
from cafe.curation.strategies import STRATEGIES, Pool, balanced, coreset, margin, typiclust
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features

CLASSES, PER_CLASS, WIDTH = 5, 30, 16


def clouds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, ClassText]:
    """Features of classes that are well apart, their labels, and texts near their centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(CLASSES, WIDTH)
    y = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    x = centres[y] + 0.1 * torch.randn(len(y), WIDTH, generator=generator)
    return x, y, ClassText(centres[:, None], tuple("abcde"), 100.0)


@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
@pytest.mark.parametrize("labels", [0, 7])
def test_rows_are_distinct_and_the_same_again(strategy: Strategy, labels: int) -> None:
    x, y, text = clouds()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    known, rest = order[:labels], order[labels:]

    def choose(budget: int) -> list[int]:
        labelled = Features(x[known], y[known])
        return next_images(
            x[rest], budget, labelled=labelled, text=text, strategy=strategy
        ).tolist()

    chosen = choose(12)
    assert len(set(chosen)) == 12
    assert all(0 <= row < len(rest) for row in chosen)
    assert choose(12) == chosen
    assert sorted(choose(1000)) == list(range(len(rest)))  # all where there are fewer


def test_one_class_tells_nothing_apart() -> None:
    x, _, text = clouds()
    one = ClassText(text.features[:1], text.names[:1], text.logit_scale)
    for labelled in (None, Features(x[:4], torch.zeros(4, dtype=torch.int64))):
        assert len(set(next_images(x, 3, labelled=labelled, text=one).tolist())) == 3
        with pytest.raises(InputError, match="goes by a head's answers"):
            next_images(x, 3, labelled=labelled, text=one, strategy="margin")


@pytest.mark.parametrize("strategy", ["auto", "typiclust", "coreset", "balanced"])
def test_the_first_labels_cover_the_classes(strategy: Strategy) -> None:
    x, y, text = clouds()
    given = text if strategy == "balanced" else None  # without text, auto is typiclust
    rows = next_images(x, CLASSES, text=given, strategy=strategy)
    assert sorted(y[rows].tolist()) == list(range(CLASSES))


def test_typiclust_looks_where_nothing_is_labelled() -> None:
    x, y, _ = clouds()
    known = torch.cat([torch.arange(c * PER_CLASS, c * PER_CLASS + 1) for c in (0, 1, 2)])
    labelled = Features(x[known], y[known])
    rest = y > 2
    rows = next_images(x, 2, labelled=labelled, strategy="typiclust")
    assert rest[rows].all()


def test_coreset_is_the_greedy_k_centre() -> None:
    x, _, _ = clouds(3)
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    known, pool = unit[:4], unit[4:]
    expected: list[int] = []
    for _ in range(9):
        centres = np.concatenate([known, pool[expected]])
        farthest = [
            -1.0 if row in expected else min(float(1 - pool[row] @ c) for c in centres)
            for row in range(len(pool))
        ]
        expected.append(int(np.argmax(farthest)))
    answers = np.ones((len(pool), 2), np.float32) / 2
    found = coreset(Pool(pool, known, np.array([2, 2]), answers, 0), 9)
    assert found.tolist() == expected


def test_balanced_evens_out_what_the_head_believes() -> None:
    answers = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]], np.float32)
    x = np.eye(5, 8, dtype=np.float32)
    pool = Pool(x, x[:0], np.array([0, 2]), answers, 0)
    # class 0 has no label: its two least sure images, then as many of each
    assert balanced(pool, 2).tolist() == [1, 2]
    assert balanced(pool, 4).tolist() == [1, 2, 0, 4]


def test_margin_takes_doubtful_images_that_differ() -> None:
    x = np.repeat(np.eye(2, 8, dtype=np.float32), 30, axis=0)
    answers = np.tile(np.array([[0.99, 0.01]], np.float32), (60, 1))
    doubtful = [0, 1, 2, 30]  # the first three are one and the same image
    answers[doubtful] = [0.5, 0.5]
    pool = Pool(x, x[:0], np.array([0, 0]), answers, 0)
    first, second = margin(pool, 2).tolist()
    assert {first, second} == {30, min(first, second)}
    assert {first, second} <= set(doubtful)


def test_the_answers_are_the_heads() -> None:
    x, y, text = clouds()
    zero_shot = class_answers(x, None, text)
    assert zero_shot is not None
    assert (zero_shot.argmax(axis=1) == y.numpy()).mean() > 0.9
    assert class_answers(x, None, None) is None
    assert class_answers(x, Features(x[:1], y[:1]), None) is None  # one class tells nothing apart
    without_text = class_answers(x, Features(x[::10], y[::10]), None)
    assert without_text is not None
    assert (without_text.argmax(axis=1) == y.numpy()).mean() > 0.9


def test_clusters_are_capped() -> None:
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    rows = typiclust(Pool(unit[900:], unit[:900], np.zeros(2, np.int64), None, 0), 10)
    assert len(set(rows.tolist())) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": 0}, "budget must be at least 1; got 0"),
        ({"strategy": "best"}, "strategy must be one of auto, balanced, .*; got 'best'"),
        ({"strategy": "margin"}, "neither class texts nor labelled images of two classes"),
        ({"unlabelled": np.zeros((0, 4))}, r"must be features \(N, D\); got \(0, 4\)"),
        ({"unlabelled": np.zeros(4)}, r"must be features \(N, D\); got \(4,\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"unlabelled": np.ones((3, 4)), "budget": 1, **arguments}
    with pytest.raises(InputError, match=words):
        cafe.next_images(**given)  # type: ignore[arg-type]
