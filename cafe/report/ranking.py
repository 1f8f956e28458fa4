"""The order of methods on a page: the best first, inside each group of methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cafe.features.pool import INDUCTIVE
from cafe.features.splits import Shots
from cafe.results.metrics import Summary, summarize
from cafe.results.result import Result, by_learning


class Standing(NamedTuple):
    """The methods of one group, the best first, under the words of what they saw."""

    group: str
    results: list[Result]


def score(result: Result) -> float:
    """What results are ranked by, in percent: base-to-new by the harmonic mean of both halves."""
    return _ranked_by(result).mean


def _ranked_by(result: Result) -> Summary:
    return result.harmonic_mean or result.accuracy


def ranking(results: Iterable[Result], shots: Shots) -> list[Standing]:
    """Rank the methods at one shot count.

    Methods that saw images without labels do not compete with those that did not; see
    `cafe.results.result.by_learning`.

    Parameters
    ----------
    results : iterable of Result
    shots : int or "all"

    Returns
    -------
    list of Standing
        What is inductive first; of equals the method that comes up first.
    """
    groups = by_learning(result for result in results if result.shots == shots)
    standings = [Standing(words, sorted(some, key=_loss)) for words, some in groups.items()]
    return sorted(standings, key=lambda standing: standing.group != INDUCTIVE)


def _loss(result: Result) -> float:
    return -score(result)


def is_clear(first: Result, second: Result) -> bool | None:
    """Whether the 95 % interval of the difference, paired by seed, leaves out 0.

    None where there are too few seeds to say.
    """
    pairs = zip(_ranked_by(first).per_seed, _ranked_by(second).per_seed, strict=True)
    difference = summarize([a - b for a, b in pairs])
    return None if difference.ci95 is None else difference.mean > difference.ci95
