"""Selecting a head of a run where none is named; the test set is never looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from cafe.errors import InputError, UnknownNameError, counted
from cafe.features.pool import INDUCTIVE, kind_of
from cafe.features.splits import Shots
from cafe.methods.catalog import BASELINES
from cafe.methods.validation import pick_best
from cafe.results.record import Record
from cafe.results.result import Calibration, Result, by_learning, largest_shots

T = TypeVar("T")

USUAL = "auto"
"""The method that answers where nothing was held out: at one shot it is the best on average."""


class HeadSelector(NamedTuple):
    """Which head of a run is wanted; None is the usual one.

    Attributes
    ----------
    method : str or None
        None takes the best on held-out images; see `best_result`.
    shots : int, "all" or None
        None takes the largest shot count.
    seed : int or None
        None takes the first seed, which is 0 unless others were asked for.
    """

    method: str | None = None
    shots: Shots | None = None
    seed: int | None = None


class ChosenResult(NamedTuple):
    """One head of a run.

    Attributes
    ----------
    result : Result
    seed : int
    words : str
        In a line, which it is and what is known of it.
    had_choice : bool
        Whether the run has other methods and none was asked for.
    """

    result: Result
    seed: int
    words: str
    had_choice: bool


def best_of(calibrations: Sequence[Calibration]) -> int:
    """The best by the images that temperatures were fitted on, which no judged head had seen.

    Highest accuracy, of equals the likeliest under its temperature; see `pick_best`.
    """
    accuracies = [c.accuracy or 0.0 for c in calibrations]
    losses = [math.inf if c.nll is None else c.nll for c in calibrations]
    return pick_best(accuracies, losses)


def best_result(results: Sequence[Result]) -> tuple[Result, str]:
    """The result whose head answers, and in words why.

    Parameters
    ----------
    results : sequence of Result
        Of one shot count, at least one.

    Returns
    -------
    (Result, str)
        Of results that saw a pool and results that did not, those that did are chosen among.
        Where accuracies on held-out images are kept, the best by them. Else "auto", or the last
        method, as the baselines stand first.
    """
    results = _of_one_kind(results)
    judged = [r for r in results if r.calibration and r.calibration.accuracy is not None]
    if judged:
        calibrations = [r.calibration for r in judged if r.calibration]
        best = best_of(calibrations)
        by = "validation images"
        if calibrations[best].source == "out-of-fold":
            by = "cross-validation inside the shots"
        return judged[best], f"best of {len(judged)} by {by}"
    own = [r for r in results if r.method not in BASELINES] or list(results)
    usual = next((r for r in own if r.method == USUAL), own[-1])
    return usual, "the run kept nothing to choose by"


def _of_one_kind(results: Sequence[Result]) -> Sequence[Result]:
    """Those that saw a pool, for which a run is given one; else all, which are inductive."""
    groups = by_learning(results)
    return next((some for words, some in groups.items() if words != INDUCTIVE), results)


def choose_result(record: Record, selector: HeadSelector) -> ChosenResult:
    """The result and the seed that are meant; see `HeadSelector`."""
    names = list(dict.fromkeys(result.method for result in record.results))
    if selector.method is not None and selector.method not in names:
        raise UnknownNameError("method of this run", selector.method, names)
    of_method = [r for r in record.results if selector.method in (None, r.method)]
    counts = list(dict.fromkeys(result.shots for result in of_method))
    shots = _choose("shots", selector.shots, counts, largest_shots(counts))
    result, why = best_result([r for r in of_method if r.shots == shots])
    seeds = record.protocol.seeds
    seed = _choose("seed", selector.seed, seeds, seeds[0])
    had_choice = selector.method is None and len(names) > 1
    kind = kind_of(result.learning)
    which = f"{result.method}, {counted(shots, 'shot')}, seed {seed}"
    which += "" if kind == INDUCTIVE else f", {kind}"
    accuracy = result.accuracy.per_seed[seeds.index(seed)]
    words = f"{which}{f' ({why})' if had_choice else ''}: {accuracy:.1f} % on the run's test split"
    return ChosenResult(result, seed, words, had_choice)


def _choose(name: str, wanted: T | None, known: Sequence[T], usual: T) -> T:
    """What is wanted of a run, or the usual where nothing is."""
    if wanted is not None and wanted not in known:
        raise InputError(
            f"the run has no head of {name}={wanted}; it has {', '.join(map(str, known))}."
        )
    return usual if wanted is None else wanted
