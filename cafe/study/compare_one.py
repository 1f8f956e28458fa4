"""A comparison of methods on one cache, and what `cafe.compare` makes of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import counted
from cafe.features.task import load_task
from cafe.methods.base import Context
from cafe.progress import Progress
from cafe.results.averages import differences
from cafe.results.record import Record, make_record
from cafe.store import FeatureCache
from cafe.store.repr_mixin import ReprMixin
from cafe.study.base_to_new import base_and_new
from cafe.study.meta_train import meta_notes
from cafe.study.plan import StudyPlan, describe_protocol
from cafe.study.runner import run_study
from cafe.study.self_train import describe_self_training


@dataclass(frozen=True, repr=False)
class Comparison(ReprMixin):
    """Methods over shot counts on one cache, or on several with their average.

    Attributes
    ----------
    record : Record
        Of the one cache, or the average over the caches, which has a folder of its own.
    records : sequence of Record
        One per cache, as saved.
    """

    record: Record
    records: Sequence[Record]

    def _title(self) -> str:
        return self.record._title()

    def _rows(self) -> list[list[str]]:
        return self.record._rows()

    @property
    def json(self) -> Mapping[str, Any]:
        """The record as JSON values; of several caches also `caches`, one record each."""
        if len(self.records) == 1:
            return self.record.json
        return {**self.record.json, "caches": [record.json for record in self.records]}

    @property
    def folder(self) -> Path | None:
        """Where the record is saved."""
        return self.record.folder


def compare_one(
    source: FeatureCache, plan: StudyPlan, context: Context, progress: Progress | None
) -> Record:
    """The record of all methods of a plan on one cache."""
    task = load_task(source)
    results = run_study(task, plan, context=context, progress=progress)
    seen = [*meta_notes(source, plan.settings), *describe_self_training(plan.settings)]
    protocol = describe_protocol(task, plan, seen)
    return make_record(source, protocol, results, kind="compare", differences=differences(results))


def compare_base_to_new(
    source: FeatureCache, plan: StudyPlan, context: Context, progress: Progress | None
) -> Record:
    """The same, fitted on half of the classes and tested on both halves apart."""
    base, results, halves = base_and_new(load_task(source), plan, context, progress)
    words = (
        f"Base to new: heads are fitted on the first {counted(halves.base, 'class')} in the order "
        f"of the labels, and tested on those and on the other {halves.new} apart, each half "
        "among its own classes."
    )
    return make_record(
        source,
        describe_protocol(base, plan, [words, *describe_self_training(plan.settings)]),
        results,
        kind="base-to-new",
        base_to_new=halves,
        class_names=base.text.names,
    )
