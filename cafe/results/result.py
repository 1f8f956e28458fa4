"""One method at one shot count: what it scored, its calibration, its heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from cafe.features.pool import INDUCTIVE, kind_of
from cafe.features.splits import Shots
from cafe.methods.head import Head
from cafe.results.metrics import Summary
from cafe.results.page import ResultPage
from cafe.results.predictions import Predictions
from cafe.results.typed_json import Count, Index, Name, NotNegative, Percent, to_json


@dataclass(frozen=True)
class Calibration:
    """A temperature and where it comes from.

    Attributes
    ----------
    temperature : float or None
        T; None where no image was left to fit it on: probabilities are as the head gives them.
    source : {"validation", "out-of-fold", "test", "none"}
        The images of the validation protocol; or the shots, each judged by a head that was fitted
        without it; or, of a model alone, the test split, whose images it was fitted on afterwards.
    images : int
        How many it was fitted on.
    accuracy : float or None
        Top-1 on these images in percent: what heads are chosen by. None in records of earlier
        versions, and where there is no image.
    nll : float or None
        Mean negative log-likelihood of these images under the temperature, in nats.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    source: Literal["validation", "out-of-fold", "test", "none"]
    images: Index
    accuracy: Percent | None = None
    nll: NotNegative | None = None


NOT_CALIBRATED = Calibration(None, "none", 0)


@dataclass(frozen=True)
class Result:
    """One method at one shot count.

    Attributes
    ----------
    method : str
    shots : int or "all"
    params : mapping
        Hyper-parameters in force: the value where all seeds agree, else one value per seed.
    accuracy : Summary
        Top-1 test accuracy in percent over seeds; in base-to-new that of the base half.
    seconds : float
        Time of all its fits together.
    metrics : mapping of str to float
        More than top-1, means over seeds; see `cafe.study.diagnostics.Diagnostics`.
    calibration : Calibration or None
        None for averages over caches.
    learning : str or None
        "inductive", or in words which images without labels the heads saw; see
        `cafe.features.pool`. None in records of earlier versions, which are inductive. Results of
        two kinds are never ranked together.
    new, harmonic_mean : Summary or None
        Of base-to-new: accuracy on the new half, and the harmonic mean of both halves.
    heads : tuple of Head
        One per seed; in memory only, empty where the result was read from a record.
    page : mapping
        See `ResultPage`; in memory only.
    predictions : tuple of Predictions
        What each head says of the test images, one per seed; in memory only.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    method: Name
    shots: Count
    params: Mapping[str, Any]
    accuracy: Summary
    seconds: NotNegative
    metrics: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    learning: str | None = None
    new: Summary | None = None
    harmonic_mean: Summary | None = None
    heads: Annotated[tuple[Head, ...], Field(exclude=True)] = field(default=(), repr=False)
    page: Annotated[ResultPage, Field(exclude=True)] = field(default_factory=ResultPage, repr=False)
    predictions: Annotated[tuple[Predictions, ...], Field(exclude=True)] = field(
        default=(), repr=False
    )

    @property
    def json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return to_json(self)


def by_learning(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results that may be ranked together, under the words of what they saw."""
    groups: dict[str, list[Result]] = {}
    words: dict[str, str] = {}
    for result in results:
        learning = result.learning or INDUCTIVE
        groups.setdefault(words.setdefault(kind_of(learning), learning), []).append(result)
    return groups


def accuracy_rows(results: Sequence[Result]) -> list[list[str]]:
    """Mean accuracies with 95 % intervals, for people: a row for each method, a column of shots."""
    counts = list(dict.fromkeys(result.shots for result in results))
    found = {(result.method, result.shots): result.accuracy for result in results}
    kinds = {result.method: kind_of(result.learning) for result in results}

    def cell(summary: Summary | None) -> str:
        if summary is None:
            return ""
        return f"{summary.mean:.2f}" + ("" if summary.ci95 is None else f" ± {summary.ci95:.2f}")

    return [
        ["accuracy %", *(f"{shots} shot{'' if shots == 1 else 's'}" for shots in counts)],
        *(
            [f"{method}, {kinds[method]}", *(cell(found.get((method, shots))) for shots in counts)]
            for method in dict.fromkeys(result.method for result in results)
        ),
    ]


@dataclass(frozen=True)
class Difference:
    """A method's points of accuracy over those of another, paired by seed."""

    method: Name
    shots: Count
    to: str
    accuracy: Summary


@dataclass(frozen=True)
class ChosenConfiguration:
    """What a grid chose at one shot count: its mean validation accuracy, None where
    nothing was left to judge by, and its test.
    """

    shots: Count
    ratio: NotNegative
    bottleneck: str
    lr: NotNegative
    val: Percent | None
    test: Summary


def largest_shots(counts: Iterable[Shots]) -> Shots:
    """The largest of several shot counts; "all" is the largest of all."""
    return max(counts, key=lambda shots: float("inf") if shots == "all" else shots)
