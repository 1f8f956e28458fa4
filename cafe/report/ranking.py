"""The order of methods on a page: the best first, inside each group of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cafe.features.splits import Shots
from cafe.results.metrics import Summary, summarize
from cafe.results.result import Result


class Standing(NamedTuple):
    """The methods of one group, the best first; the only group is called ""."""

    group: str
    results: list[Result]


def score(result: Result) -> float:
    """What results are ranked by, in percent: base-to-new by the harmonic mean of both halves."""
    return _ranked_by(result).mean


def _ranked_by(result: Result) -> Summary:
    return result.harmonic_mean or result.accuracy


def ranking(
    results: Iterable[Result], shots: Shots, group_of: Callable[[str], str] | None = None
) -> list[Standing]:
    """Rank the methods at one shot count.

    Parameters
    ----------
    results : iterable of Result
    shots : int or "all"
    group_of : callable, optional
        Method -> its group. Methods of two groups do not compete: one may have seen more than the
        other. None puts all into one.

    Returns
    -------
    list of Standing
        In the order that the groups come up in; of equals the method that comes up first.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.shots == shots:
            groups.setdefault(group_of(result.method) if group_of else "", []).append(result)
    return [
        Standing(group, sorted(members, key=lambda result: -score(result)))
        for group, members in groups.items()
    ]


def is_clear(first: Result, second: Result) -> bool | None:
    """Whether the 95 % interval of the difference, paired by seed, leaves out 0.

    None where there are too few seeds to say.
    """
    pairs = zip(_ranked_by(first).per_seed, _ranked_by(second).per_seed, strict=True)
    difference = summarize([a - b for a, b in pairs])
    return None if difference.ci95 is None else difference.mean > difference.ci95
