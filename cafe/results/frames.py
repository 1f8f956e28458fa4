"""The results of a record as tables of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cafe.compat import import_pandas
from cafe.datasets.text_files import distinct_names
from cafe.errors import InputError, UnknownNameError
from cafe.features.splits import Shots
from cafe.results.page import read_page
from cafe.results.predictions import PREDICTIONS, HeadName, read_pairs
from cafe.results.result import largest_shots

if TYPE_CHECKING:
    from pandas import DataFrame

    from cafe.results.record import Record


def result_frame(record: Record) -> DataFrame:
    """One row for each method, shot count and seed; see `Record.frame`."""
    rows = []
    for result in record.results:
        summaries = {
            "accuracy": result.accuracy,
            "new": result.new,
            "harmonic_mean": result.harmonic_mean,
        }
        for place, seed in enumerate(record.protocol.seeds):
            rows.append(
                {
                    "dataset": record.dataset,
                    "encoder": record.encoder.name,
                    "method": result.method,
                    "shots": result.shots,
                    "seed": seed,
                    **{name: s.per_seed[place] for name, s in summaries.items() if s is not None},
                }
            )
    return import_pandas().DataFrame(rows)


def per_class_frame(record: Record) -> DataFrame:
    """One row for each method, shot count and class; see `Record.per_class`."""
    names, pages = record.class_names, {(r.method, r.shots): r.page for r in record.results}
    if not any(pages.values()) and record.folder is not None:
        page = read_page(record.folder)
        names = page.class_names
        pages = {(row["method"], row["shots"]): row for row in page.results}
    rows = [
        {"method": method, "shots": shots, "label": name, "accuracy": accuracy}
        for (method, shots), page in pages.items()
        for name, accuracy in zip(distinct_names(names), page.get("per_class", ()), strict=False)
    ]
    if not rows:
        raise InputError(f"the record of {record.dataset} has no accuracies of classes.")
    frame = import_pandas().DataFrame(rows)
    return frame.astype({"accuracy": "float64"})


def confusion_frame(
    record: Record, method: str, shots: Shots | None, seed: int | None
) -> DataFrame:
    """Labels by guesses; see `Record.confusion`."""
    wanted, predictions = _heads(record, method, shots, seed), record.predictions
    if predictions:
        names = list(distinct_names(record.opened.header.class_names))
        pairs = {head: predictions[head].pairs(names) for head in wanted}
    elif record.folder is None:
        raise InputError(f"the record of {record.dataset} has no predictions: it is an average.")
    else:
        known, halves = distinct_names(read_page(record.folder).class_names), record.base_to_new
        classes = halves.base + halves.new if halves else len(known)
        pairs, names = read_pairs(record.folder, wanted, known, classes)
        if not pairs:
            raise InputError(f"'{record.folder / PREDICTIONS}' has no row of {method}; fit again.")
    counts = np.zeros((len(names), len(names)))
    place = {name: index for index, name in enumerate(names)}
    for one in pairs.values():
        for (label, guess), images in one.items():
            counts[place[label], place[guess]] += images
    pandas = import_pandas()
    axes = pandas.Index(names, name="label"), pandas.Index(names, name="guess")
    return pandas.DataFrame(counts / len(pairs), *axes)


def _heads(record: Record, method: str, shots: Shots | None, seed: int | None) -> list[HeadName]:
    """The heads of a method that are meant, one per seed."""
    counts = [result.shots for result in record.results if result.method == method]
    if not counts:
        names = dict.fromkeys(result.method for result in record.results)
        raise UnknownNameError("method of this run", method, names)
    shots = largest_shots(counts) if shots is None else shots
    seeds = record.protocol.seeds if seed is None else (seed,)
    if shots not in counts or seeds[0] not in record.protocol.seeds:
        raise InputError(
            f"the run has no head of {method} with {shots} shots and seed {seeds[0]}; it has shots "
            f"{', '.join(map(str, counts))} and seeds {', '.join(map(str, record.protocol.seeds))}."
        )
    return [HeadName(method, shots, seed) for seed in seeds]
