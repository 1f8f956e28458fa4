"""`cafe.compare`: many methods on the same shots and seeds, over one cache or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cafe.devices import resolve_device
from cafe.errors import InputError
from cafe.features.splits import Shots
from cafe.features.task import Task, load_task
from cafe.methods.base import Context, Protocol
from cafe.methods.catalog import methods_that_need
from cafe.results.paired import average, differences, summary_json
from cafe.results.plan import StudyPlan
from cafe.results.record import Record, make_record, save_run
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, find_caches
from cafe.study.base_to_new import (
    base_and_new,
    base_to_new_in_words,
    left_out,
    supports_new_classes,
)
from cafe.study.provenance import meta_notes
from cafe.study.study import Progress, check_plan, class_counts, protocol_in_words, run

DEFAULT_SHOTS: tuple[Shots, ...] = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Comparison:
    """Methods over shot counts on one cache, or on several with their average.

    Attributes
    ----------
    json : mapping
        Of one cache, the record's JSON values. Of several: `results`, `differences` and `protocol`
        of the average over caches in the same shape, and `caches`, one record each.
    records : sequence of Record
        One per cache, as saved.
    folder : Path or None
        Where it is saved; the average of several caches has a folder of its own.
    """

    json: Mapping[str, Any]
    records: Sequence[Record]
    folder: Path | None = None


def compare(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None = None,
    *,
    methods: Sequence[str] | None = None,
    shots: Sequence[Shots] | None = None,
    seeds: int | Sequence[int] = 3,
    validation: Protocol = "none",
    base_to_new: bool = False,
    needs: Callable[[FeatureCache], Mapping[str, Any]] | None = None,
    meta: Path | str | None = None,
    device: str = "auto",
    runs: Path | str | None = "runs",
    command: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Compare methods on the same shots and seeds of one or several caches.

    Parameters
    ----------
    caches : FeatureCache, Path, str, or a sequence of these, optional
        None takes the newest cache.
    methods : sequence of str, optional
        Names of the catalog; None takes all of them.
    shots : sequence of int or "all", optional
        Training images per class; None takes 1, 2, 4, 8 and 16 as far as the classes reach.
    seeds : int or sequence of int
        How many seeds (0, 1, ...), or which.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    base_to_new : bool
        Fit on the first half of the classes, in the order of their labels, and test on both halves
        apart; for the methods whose head can take new classes.
    needs : callable, optional
        Given a cache, the settings that methods need and that no default can give, by name; for
        "coop" and "cpl" `{"tower": cafe.encoders.text_tower.load_tower(cache)}`.
    meta : Path or str, optional
        A file of `meta_train`: meta-adapter stands beside the others.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    runs : Path or str, optional
        Folder that each cache's run is saved in; None saves nothing.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.study.study.Progress`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the arguments do not fit one of the caches; nothing is fitted or saved.

    Examples
    --------
    >>> found = cafe.compare(
    ...     "digits/nano.glyphs", methods=["zero-shot", "gda"], shots=[1, 4], seeds=2
    ... )
    >>> [(row["method"], row["shots"]) for row in found.json["results"]]
    [('zero-shot', 1), ('gda', 1), ('zero-shot', 4), ('gda', 4)]
    """
    sources = open_caches(caches)
    asked = _asked(methods, meta)
    names = supports_new_classes(asked) if base_to_new else asked
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    plans = []
    for source in sources:  # every refusal comes before the first fit
        task = load_task(source)
        settings = dict(needs(source)) if needs is not None else {}
        settings |= {"meta": str(meta)} if meta is not None else {}
        plan = StudyPlan(names, _shots(shots, task), chosen, validation, settings)
        check_plan(task, plan)
        meta_notes(source, settings)
        plans.append(plan)
    context = Context(device=resolve_device(device))
    home = None if runs is None else Path(runs)
    records = []
    for source, plan in zip(sources, plans, strict=True):
        record = _one(source, plan, context, progress, command, base_to_new=base_to_new)
        if base_to_new:
            record = _with(record, {"left_out": left_out(asked)})
        records.append(record if home is None else save_run(record, home))
    if len(records) == 1:
        return Comparison(records[0].json, records, records[0].folder)
    return _together(records, home)


def open_caches(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None,
) -> list[FeatureCache]:
    """Open caches by name or file; None is the newest."""
    if caches is None or isinstance(caches, FeatureCache | Path | str):
        return [_open(caches)]
    return [_open(one) for one in caches]


def _open(cache: FeatureCache | Path | str | None) -> FeatureCache:
    if isinstance(cache, FeatureCache):
        return cache
    return FeatureCache.open(find_caches(cache_folder(), None if cache is None else str(cache))[0])


def _asked(methods: Sequence[str] | None, meta: Path | str | None) -> list[str]:
    """The methods to compare; a meta file is for one of them."""
    takers = [] if meta is None else methods_that_need("meta file")
    names = list(dict.fromkeys(methods or [*methods_that_need(""), *takers]))
    if takers and not set(takers) & set(names):
        raise InputError(
            f"{', '.join(takers)} is not among the methods, and a meta file is for no other."
        )
    return names


def _shots(shots: Sequence[Shots] | None, task: Task) -> list[Shots]:
    if shots is not None:
        return list(dict.fromkeys(shots))
    largest = int(class_counts(task).max())
    return [count for count in DEFAULT_SHOTS if count == "all" or count <= largest]


def _one(
    source: FeatureCache,
    plan: StudyPlan,
    context: Context,
    progress: Progress | None,
    command: str,
    *,
    base_to_new: bool,
) -> Record:
    task = load_task(source)
    if not base_to_new:
        results = run(task, plan, context=context, progress=progress)
        words = " ".join([protocol_in_words(task, plan), *meta_notes(source, plan.settings)])
        record = make_record(source, plan, words, results, command)
        return _with(record, {"kind": "compare", "differences": differences(record.json)})
    found = base_and_new(task, plan, context, progress)
    words = f"{protocol_in_words(found.task, plan)} {base_to_new_in_words(found)}"
    record = make_record(source, plan, words, found.results, command)
    rows = [
        {**row, **{name: summary_json(value) for name, value in more.items()}}
        for row, more in zip(record.json["results"], found.transfers, strict=True)
    ]
    added = {"kind": "base-to-new", "results": rows, "base_to_new": found.halves}
    return replace(_with(record, added), class_names=found.task.text.names)


def _with(record: Record, values: Mapping[str, Any]) -> Record:
    return replace(record, json={**record.json, **values})


def _together(records: Sequence[Record], home: Path | None) -> Comparison:
    """The average of several caches, in the shape of a record."""
    parts = [record.json for record in records]
    rows = average(parts)
    if not rows:
        raise InputError("these caches share no shot count, so there is no average; name --shots.")
    models = list(dict.fromkeys(part["encoder"]["model"] for part in parts))
    json = {
        "kind": f"{parts[0]['kind']}-average",
        "cache": [part["cache"] for part in parts],
        "dataset": f"average-of-{len(parts)}",
        "datasets": [part["dataset"] for part in parts],
        "runs": [record.folder.name for record in records if record.folder is not None],
        "encoder": {
            "model": "+".join(models),
            "pretrained": "+".join(dict.fromkeys(p["encoder"]["pretrained"] for p in parts)),
        },
        "protocol": {
            **parts[0]["protocol"],
            "shots": list(dict.fromkeys(row["shots"] for row in rows)),
            "words": f"Average over {len(parts)} caches, seed by seed. Of the first, "
            f"{parts[0]['dataset']}: {parts[0]['protocol']['words']}",
        },
        "results": rows,
        "differences": differences({"results": rows}),
        "command": parts[0]["command"],
        "created": parts[0]["created"],
        "versions": parts[0]["versions"],
    }
    for name in ("left_out", "base_to_new"):
        if name in parts[0]:
            json[name] = parts[0][name]
    folder = save_run(Record(json, (), ()), home).folder if home is not None else None
    return Comparison({**json, "caches": parts}, records, folder)
