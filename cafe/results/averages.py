"""Differences between methods, paired by seed; averages over caches, and their record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cafe.errors import InputError
from cafe.features.pool import join_learning, kind_of
from cafe.results.metrics import Summary, summarize
from cafe.results.record import Record, RecordedEncoder
from cafe.results.result import Difference, Result

REFERENCE = "clip-adapter"
"""The method that differences are to."""


def differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Differences of every method to CLIP-Adapter, paired by seed.

    Parameters
    ----------
    results : sequence of Result

    Returns
    -------
    tuple of Difference
        In `accuracy` the mean difference in points with its standard deviation and 95 % interval
        over seeds; empty where CLIP-Adapter is not among the methods.
    """
    reference = {
        (r.shots, kind_of(r.learning)): r.accuracy.per_seed
        for r in results
        if r.method == REFERENCE
    }
    rows = []
    for result in results:
        key = result.shots, kind_of(result.learning)  # only what saw as much is compared
        if result.method != REFERENCE and key in reference:
            pairs = zip(result.accuracy.per_seed, reference[key], strict=True)
            gap = summarize([score - other for score, other in pairs])
            rows.append(Difference(result.method, result.shots, REFERENCE, gap))
    return tuple(rows)


def average(records: Sequence[Record]) -> tuple[Result, ...]:
    """Average results over caches, seed by seed, where every cache has the shot count.

    Parameters
    ----------
    records : sequence of Record
        Of the same methods and seeds.

    Returns
    -------
    tuple of Result
        Without hyper-parameters; `seconds` is the sum.
    """
    tables = [
        {(r.method, r.shots, kind_of(r.learning)): r for r in record.results} for record in records
    ]
    shared = [key for key in tables[0] if all(key in table for table in tables)]
    return tuple(_average_of([table[key] for table in tables]) for key in shared)


def average_record(records: Sequence[Record]) -> Record:
    """The average of several caches, in the shape of a record."""
    first, results = records[0], average(records)
    if not results:
        raise InputError(
            "these caches share no shot count, so there is no average; name some with shots=."
        )
    names = [record.dataset for record in records]
    words = (
        f"Average over {len(records)} caches, seed by seed. Of the first, {first.dataset}: "
        f"{first.protocol.words}"
    )
    words += "".join(f" Of {r.dataset}: {r.source}." for r in records[1:] if r.source)
    brief = f"Average over {len(records)} caches. Of {first.dataset}: {first.protocol.brief}"
    # only the shot counts that every cache has can be averaged
    shots = tuple(dict.fromkeys(result.shots for result in results))
    return replace(
        first,
        kind=f"{first.kind}-average",
        cache=tuple(str(record.cache) for record in records),
        dataset=f"average-of-{len(records)}",
        datasets=tuple(names),
        runs=tuple(record.folder.name for record in records if record.folder is not None),
        encoder=RecordedEncoder(
            "+".join(dict.fromkeys(record.encoder.model for record in records)),
            "+".join(dict.fromkeys(record.encoder.pretrained for record in records)),
        ),
        protocol=replace(first.protocol, shots=shots, words=words, brief=brief),
        results=results,
        differences=differences(results),
        cache_key={},
        opened=None,
        class_names=(),
        folder=None,
    )


def _average_of(results: Sequence[Result]) -> Result:
    new = [result.new for result in results if result.new]
    harmonic = [result.harmonic_mean for result in results if result.harmonic_mean]
    return Result(
        results[0].method,
        results[0].shots,
        params={},
        accuracy=_seed_by_seed([result.accuracy for result in results]),
        seconds=sum(result.seconds for result in results),
        learning=join_learning([result.learning for result in results]),
        new=_seed_by_seed(new) if new else None,
        harmonic_mean=_seed_by_seed(harmonic) if harmonic else None,
    )


def _seed_by_seed(summaries: Sequence[Summary]) -> Summary:
    columns = zip(*(summary.per_seed for summary in summaries), strict=True)
    return summarize([sum(scores) / len(summaries) for scores in columns])
