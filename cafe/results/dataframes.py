"""A record as tables of pandas, and its representation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cafe.compat import import_pandas
from cafe.datasets.text_files import distinct_names
from cafe.errors import InputError, UnknownNameError
from cafe.features.pool import INDUCTIVE
from cafe.features.splits import Shots
from cafe.results.page import read_page
from cafe.results.predictions import PREDICTIONS, HeadName, read_pairs
from cafe.results.result import Result, accuracy_rows, largest_shots
from cafe.store.repr_mixin import ReprMixin

if TYPE_CHECKING:
    from pandas import DataFrame

    from cafe.results.record import Record, RecordedEncoder


class RecordFrames(ReprMixin):
    """The tables of a `Record`, and its representation."""

    dataset: str
    encoder: RecordedEncoder
    results: tuple[Result, ...]
    folder: Path | None

    def frame(self) -> DataFrame:
        """The results as a table of pandas, a row for each method, shot count and seed.

        Returns
        -------
        DataFrame
            `dataset`, `encoder`, `method`, `shots`, `seed`, `accuracy` (percent); of base-to-new
            also `new` and `harmonic_mean`; and `learning`, what the heads saw without labels.
        """
        return _result_frame(cast("Record", self))

    def per_class(self) -> DataFrame:
        """The accuracy of every class as a table of pandas.

        Returns
        -------
        DataFrame
            `method`, `shots`, `label` and `accuracy`: percent, the mean over seeds, NaN for a class
            without test image.
        """
        return _per_class_frame(cast("Record", self))

    def confusion(
        self, method: str, *, shots: Shots | None = None, seed: int | None = None
    ) -> DataFrame:
        """How many test images of each class get each guess, as a table of pandas.

        Parameters
        ----------
        method : str
        shots : int or "all", optional
            None takes the largest shot count.
        seed : int, optional
            None takes the mean over seeds.

        Returns
        -------
        DataFrame
            A row for each label, a column for each guess. (C, C)

        Raises
        ------
        InputError
            If the run has no such head or no `predictions.csv`: it is an average or too old.
        """
        return _confusion_frame(cast("Record", self), method, shots, seed)

    def _title(self) -> str:
        where = f", saved in '{self.folder}'" if self.folder else ""
        return f"Record of {self.dataset} with {self.encoder.name}{where}"

    def _rows(self) -> list[list[str]]:
        return accuracy_rows(self.results)


def _result_frame(record: Record) -> DataFrame:
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
                    "learning": result.learning or INDUCTIVE,
                }
            )
    return import_pandas().DataFrame(rows)


def _per_class_frame(record: Record) -> DataFrame:
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


def _confusion_frame(
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
    for counted in pairs.values():
        for (label, guess), images in counted.items():
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
