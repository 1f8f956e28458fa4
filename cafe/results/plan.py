"""What a study compares, and what it found: the types that a record is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cafe.features.splits import Shots
from cafe.methods.base import Protocol
from cafe.methods.head import Head
from cafe.results.metrics import Summary


@dataclass(frozen=True)
class StudyPlan:
    """What is compared, and under which protocol.

    Attributes
    ----------
    methods : sequence of str
        Names of the catalog.
    shots : sequence of int or "all"
        Images per class, one or several counts.
    seeds : sequence of int
        One fit per seed; a seed fixes the draw, the initial weights and the batch order.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    settings : mapping
        Hyper-parameters; each method takes those that it knows.
    """

    methods: Sequence[str]
    shots: Sequence[Shots]
    seeds: Sequence[int]
    validation: Protocol = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One method at one shot count.

    Attributes
    ----------
    method : str
    shots : int or "all"
    heads : tuple of Head
        One per seed.
    accuracy : Summary
        Top-1 test accuracy in percent over seeds.
    seconds : float
        Time of all its fits together.
    metrics : mapping of str to float
        More than top-1, means over seeds; see `cafe.study.diagnostics.Diagnostics`.
    page : mapping
        What a page shows of it, as JSON values; see there.
    """

    method: str
    shots: Shots
    heads: tuple[Head, ...]
    accuracy: Summary
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    page: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """A temperature and where it comes from.

    Attributes
    ----------
    temperature : float or None
        T; None where no image was left to fit it on: probabilities are as the head gives them.
    source : {"validation", "out-of-fold", "none"}
        The images of the validation protocol, or the shots, each judged by a head that was fitted
        without it.
    images : int
        How many it was fitted on.
    """

    temperature: float | None = None
    source: str = "none"
    images: int = 0

    def json(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return asdict(self)
