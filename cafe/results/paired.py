"""Results of several methods, seed by seed: differences, and averages over caches; fits nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cafe.results.metrics import Summary, summarize

REFERENCE = "clip-adapter"
"""The method that differences are to."""

Json = dict[str, Any]


def summary_json(summary: Summary) -> Json:
    """A summary as JSON values."""
    return {**asdict(summary), "per_seed": list(summary.per_seed)}


def differences(record: Mapping[str, Any]) -> list[Json]:
    """Differences of every method to CLIP-Adapter, paired by seed.

    Parameters
    ----------
    record : mapping
        JSON values with `results`.

    Returns
    -------
    list of dict
        `method`, `shots`, `to`, and in `accuracy` the mean difference in points with its standard
        deviation and 95 % interval over seeds; empty where CLIP-Adapter is not among the methods.
    """
    scores = {(r["method"], r["shots"]): r["accuracy"]["per_seed"] for r in record["results"]}
    rows = []
    for (method, shots), mine in scores.items():
        theirs = scores.get((REFERENCE, shots))
        if theirs is not None and method != REFERENCE:
            gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
            summary = summary_json(summarize(gaps))
            rows.append({"method": method, "shots": shots, "to": REFERENCE, "accuracy": summary})
    return rows


def average(records: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Average results over caches, seed by seed, where every cache has the shot count.

    Parameters
    ----------
    records : sequence of mapping
        JSON values with `results` of the same methods and seeds.

    Returns
    -------
    list of dict
        `method`, `shots`, `accuracy` and `seconds` (their sum), as in a record.
    """
    tables = [{(r["method"], r["shots"]): r for r in record["results"]} for record in records]
    rows = []
    for method, shots in tables[0]:
        if not all((method, shots) in table for table in tables):
            continue
        mine = [table[method, shots] for table in tables]
        row: Json = {"method": method, "shots": shots, "params": {}}
        for name in ("accuracy", "new", "harmonic_mean"):
            if all(name in one for one in mine):
                columns = zip(*(one[name]["per_seed"] for one in mine), strict=True)
                means = [sum(column) / len(mine) for column in columns]
                row[name] = summary_json(summarize(means))
        rows.append({**row, "seconds": sum(one["seconds"] for one in mine)})
    return rows
