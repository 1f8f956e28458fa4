"""`cafe.compare`: many methods on the same shots and seeds, over one cache or several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cafe.cluster import Engine, check_engine
from cafe.devices import ProductPrecision, resolve_device
from cafe.errors import InputError, counted
from cafe.features.splits import Shots
from cafe.features.task import load_task
from cafe.methods.base import Context, Protocol
from cafe.methods.catalog import BASELINES, methods_that_need
from cafe.progress import Progress, log
from cafe.results.averages import average_record
from cafe.results.record import Record
from cafe.results.runs import check_runs_folder, save_run
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, cache_name, each_cache
from cafe.study.base_to_new import left_out, supports_new_classes
from cafe.study.compare_one import Comparison, compare_base_to_new, compare_one
from cafe.study.equal_texts import without_text
from cafe.study.finished import Finished
from cafe.study.meta_train import meta_notes
from cafe.study.on_ray import Study, compare_on_ray
from cafe.study.plan import (
    StudyPlan,
    make_plan,
    open_caches,
    resolve_settings,
)
from cafe.study.pool import PoolLike, few_class_notes, pool_settings
from cafe.study.self_train import self_training

DEFAULT_SHOTS = (1, 2, 4, 8, 16)


def compare(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None = None,
    *,
    methods: Sequence[str] | None = None,
    shots: Shots | Sequence[Shots] | None = None,
    seeds: int | Sequence[int] = 3,
    validation: Protocol = "none",
    base_to_new: bool = False,
    needs: Callable[[FeatureCache], Mapping[str, Any]] | None = None,
    meta: Path | str | None = None,
    self_train: int | None = None,
    self_train_rounds: int = 1,
    ratio: float | str | None = None,
    bottleneck: int | str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    pool: PoolLike | None = None,
    device: str = "auto",
    precision: ProductPrecision = "auto",
    engine: Engine = "local",
    runs: Path | str | None = "runs",
    command: str = "",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Compare methods on the same shots and seeds of one or several caches.

    Parameters
    ----------
    caches : FeatureCache, Path, str, or a sequence of these, optional
        Caches, their files, or their names (`digits/nano.glyphs`); a dataset (`digits`) is each
        encoder's cache of it. None takes the newest.
    methods : sequence of str, optional
        Names of the catalog; None takes all that need nothing beside a cache, and of a cache
        without text of the classes those that need none.
    shots : int, "all", or a sequence of these, optional
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
    self_train, self_train_rounds : int, optional
        As of `cafe.fit`, on the proposals beside each cache, for all methods but the baselines.
    ratio : float, "learn", "auto", or None
        Weight of the adapter, ratio * A(f) + (1 - ratio) * f, from 0 to 1. None takes each method's
        own, as for the hyper-parameters that follow; each method takes those that it knows.
    bottleneck : int, str, or None
        Hidden width: a number, or a part of the feature width ("D/4").
    epochs : int or None
        Passes over the training images.
    lr : float or None
        Learning rate of the first step.
    weight_decay : float or None
        Decoupled weight decay.
    batch_size : int or None
        Images per step.
    pool : Pool, FeatureCache, Path or str, optional
        As of `cafe.fit`; the methods that need a pool then stand beside the others, in a ranking
        of their own.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : {"auto", "fp32", "bf16"}
        Of the matrix products; "auto" takes bf16 where this CPU is faster at it.
    engine : {"local", "ray"}
        Compare here, cache after cache, or on all machines of a Ray cluster, which see the caches
        under one path; a worker takes a cache.
    runs : Path or str, optional
        Folder that each cache's run is saved in; an interrupted comparison of several caches goes
        on from what it finds there. None saves nothing.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is a method at a shot count.
    note : callable, optional
        Told in a sentence each what is taken of an interrupted comparison, and which heads took
        their pool for one of few classes; None logs the former.
    **settings
        Hyper-parameters of one method alone, as of `cafe.fit`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the arguments do not fit one of the caches; nothing is fitted or saved.

    Examples
    --------
    >>> comparison = cafe.compare(
    ...     "digits/nano.glyphs", methods=["zero-shot", "gda"], shots=[1, 4], seeds=2
    ... )
    >>> [(result.method, result.shots) for result in comparison.record.results]
    [('zero-shot', 1), ('gda', 1), ('zero-shot', 4), ('gda', 4)]
    """
    check_engine(engine)
    has_pool = pool is not None and pool != "none"
    sources, names = open_caches(_each(caches)), _methods(methods, meta, has_pool)
    if base_to_new and has_pool:
        raise InputError("base-to-new takes no pool: it would hold images of the new classes.")
    no_text = {} if methods else _without_text(sources, names)
    names = [name for name in names if name not in no_text]
    compared = supports_new_classes(names) if base_to_new else names
    common = (ratio, bottleneck, epochs, lr, weight_decay, batch_size)
    special = settings if meta is None else {**settings, "meta": str(meta)}
    settings = resolve_settings(compared, common, special)
    plans = []
    for source in sources:  # every refusal comes before the first fit
        own = {**(needs(source) if needs is not None else {}), **settings}
        own |= pool_settings(source, pool, compared)
        trained = [name for name in compared if name not in BASELINES]
        own |= self_training(source, trained, self_train, self_train_rounds)
        task = load_task(source)
        plans.append(make_plan(task, compared, shots, seeds, validation, own, DEFAULT_SHOTS))
        meta_notes(source, own)  # refuses a meta file that is not for these features
    check_runs_folder(runs)
    products = Context(resolve_device(device), precision).products
    context = Context(resolve_device(device), products)  # the same on every machine
    study = compare_base_to_new if base_to_new else compare_one
    skipped = left_out(names) if base_to_new else None
    skipped = {**no_text, **(skipped or {})} or skipped
    about = {"base_to_new": base_to_new, "precision": products, "meta": meta and str(meta)}
    done = Finished(None if runs is None or meta else Path(runs), sources, plans, about)

    def keep(source: FeatureCache, record: Record) -> Record:
        record = replace(record, command=command, left_out=skipped, precision=products)
        record = record if runs is None else save_run(record, Path(runs))
        done.add(source, record)
        if note is not None:
            for text in few_class_notes(record.results):
                note(text if len(sources) == 1 else f"{cache_name(source.path)}: {text}")
        return record

    compare_all = compare_on_ray if engine == "ray" else _one_by_one
    work = partial(compare_all, study, context=context, progress=progress)
    records = _records(sources, plans, done, work, keep, note or log.info)
    if len(records) == 1:
        return Comparison(records[0], records)
    mean = average_record(records)
    mean = mean if runs is None else save_run(mean, Path(runs))
    done.discard()
    return Comparison(mean, records)


def _records(
    sources: Sequence[FeatureCache],
    plans: Sequence[StudyPlan],
    done: Finished,
    work: Callable[..., Generator[tuple[int, Record], None, None]],
    keep: Callable[[FeatureCache, Record], Record],
    note: Callable[[str], None],
) -> list[Record]:
    """The record of each cache: of an interrupted comparison, or made and kept now."""
    found = {place: record for place, c in enumerate(sources) if (record := done.find(c))}
    if found:
        note(f"{counted(len(found), 'cache', 'were')} compared earlier.")
    todo = [place for place in range(len(sources)) if place not in found]
    rest = [sources[place] for place in todo], [plans[place] for place in todo]
    with contextlib.closing(work(*rest)) as each:
        for number, record in each:
            found[todo[number]] = keep(sources[todo[number]], record)
    return [found[place] for place in range(len(sources))]


def _each(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None,
) -> Sequence[FeatureCache | Path | str] | FeatureCache | None:
    """Caches with the name of a dataset as the names of all its caches."""
    if caches is None or isinstance(caches, FeatureCache):
        return caches
    listed = [caches] if isinstance(caches, Path | str) else caches
    root = cache_folder()
    parts = (each_cache(root, part) if isinstance(part, str) else [part] for part in listed)
    return [part for each in parts for part in each]


def _methods(methods: Sequence[str] | None, meta: Path | str | None, has_pool: bool) -> list[str]:
    """The methods to compare; a meta file is for one of them."""
    takers = [] if meta is None else methods_that_need("meta file")
    pooled = methods_that_need("pool") if has_pool else []
    names = list(dict.fromkeys(methods or [*methods_that_need(""), *takers, *pooled]))
    if takers and not set(takers) & set(names):
        raise InputError(
            f"{', '.join(takers)} is not among the methods, and a meta file is for no other."
        )
    return names


def _without_text(sources: Sequence[FeatureCache], methods: Sequence[str]) -> dict[str, str]:
    """Of the usual methods those that a cache without text cannot serve, and why."""
    bare = [source for source in sources if not source.header.has_text]
    if not bare:
        return {}
    why = f"{cache_name(bare[0].path)} has no text of the classes"
    return dict.fromkeys(without_text(methods), why)


def _one_by_one(
    study: Study,
    sources: Sequence[FeatureCache],
    plans: Sequence[StudyPlan],
    context: Context,
    progress: Progress | None,
) -> Generator[tuple[int, Record], None, None]:
    """The record of each cache with its place, one after the other."""
    for place, (source, plan) in enumerate(zip(sources, plans, strict=True)):
        yield place, study(source, plan, context, progress)
