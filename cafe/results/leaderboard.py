"""Records of several encoders on one dataset, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cafe.features.pool import INDUCTIVE, join_learning, kind_of
from cafe.features.splits import Shots
from cafe.results.metrics import Summary
from cafe.results.record import Record
from cafe.results.result import Result, largest_shots
from cafe.store import FeatureCache
from cafe.store.paths import cache_name

COLUMNS = (
    *("dataset", "encoder", "method", "shots", "seeds", "accuracy", "std", "ci95", "seconds"),
    "learning",
)
"""Of `table_rows`: accuracies are in percent, `ci95` is half of the interval of 95 %."""


class Place(NamedTuple):
    """A method on the features of one encoder, with its accuracy at each shot count."""

    encoder: str
    method: str
    accuracies: dict[Shots, Summary]
    learning: str

    @property
    def kind(self) -> str:
        """See `cafe.features.pool.kind_of`."""
        return kind_of(self.learning)


def leaderboard(records: Sequence[Record]) -> list[Place]:
    """Every encoder with every method, the best first at the most shots that all have.

    What saw images without labels stands apart, behind what is inductive; see `kind_of`.

    Parameters
    ----------
    records : sequence of Record
        Of one dataset.
    """
    places = [
        Place(
            record.encoder.name,
            method,
            {r.shots: r.accuracy for r in results},
            join_learning([r.learning for r in results]),
        )
        for record in records
        for method, results in _by_method(record)
    ]
    shared = set.intersection(*({*place.accuracies} for place in places))
    most = largest_shots(shared or places[0].accuracies)
    means = {id(p): p.accuracies[most].mean if most in p.accuracies else -1.0 for p in places}
    kinds = list(dict.fromkeys([INDUCTIVE, *(place.kind for place in places)]))
    return sorted(places, key=lambda p: (kinds.index(p.kind), -means[id(p)]))


def _by_method(record: Record) -> Iterator[tuple[str, list[Result]]]:
    for method in dict.fromkeys(result.method for result in record.results):
        yield method, [result for result in record.results if result.method == method]


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """One row of texts for each record, method and shot count, under `COLUMNS`."""
    return [
        (
            record.dataset,
            record.encoder.name,
            result.method,
            str(result.shots),
            str(len(result.accuracy.per_seed)),
            f"{result.accuracy.mean:.4f}",
            f"{result.accuracy.std:.4f}",
            "" if result.accuracy.ci95 is None else f"{result.accuracy.ci95:.4f}",
            f"{result.seconds:.3f}",
            result.learning or INDUCTIVE,
        )
        for record in records
        for result in record.results
    ]


def other_test_images(caches: Sequence[FeatureCache]) -> str:
    """In words, that caches of one dataset do not share their test images; "" where they do."""
    tests = [{*cache.ids("test")} if "test" in cache.counts else set() for cache in caches]
    for cache, images in zip(caches[1:], tests[1:], strict=True):
        if images != tests[0]:
            first, other = cache_name(caches[0].path), cache_name(cache.path)
            return (
                f"{first} and {other} have different test images ({len(tests[0]):,} and "
                f"{len(images):,}, {len(images & tests[0]):,} in both), so their accuracies cannot "
                "be compared; extract both again"
            )
    return ""
