"""`cafe.fit`: from a cache to the saved run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cafe.devices import ProductPrecision, resolve_device
from cafe.errors import escape_bytes
from cafe.features.joined import join_caches
from cafe.features.splits import Shots
from cafe.features.task import load_task
from cafe.methods.base import Context, Protocol
from cafe.progress import Progress
from cafe.results.record import Record, make_record
from cafe.results.runs import check_runs_folder, save_run
from cafe.store import FeatureCache
from cafe.study.cost import cost_notes
from cafe.study.equal_texts import choose_baselines
from cafe.study.meta_train import meta_notes
from cafe.study.plan import (
    check_joinable,
    describe_protocol,
    make_plan,
    open_caches,
    resolve_settings,
)
from cafe.study.pool import PoolLike, few_class_notes, pool_settings
from cafe.study.runner import run_study
from cafe.study.self_train import describe_self_training, self_training

DEFAULT_SHOTS = 16


def fit(
    cache: FeatureCache | Path | str | Sequence[FeatureCache | Path | str] | None = None,
    *,
    method: str | Sequence[str] = "clip-adapter",
    shots: Shots | Sequence[Shots] | None = None,
    seeds: int | Sequence[int] = 3,
    validation: Protocol = "none",
    self_train: int | None = None,
    self_train_rounds: int = 1,
    proposals: FeatureCache | Path | str | None = None,
    ratio: float | str | None = None,
    bottleneck: int | str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    pool: PoolLike | None = None,
    device: str = "auto",
    precision: ProductPrecision = "auto",
    runs: Path | str | None = "runs",
    command: str = "",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Record:
    """Fit heads on a cache and compare them with zero-shot CLIP and the nearest class mean.

    Parameters
    ----------
    cache : FeatureCache, Path or str, optional
        The cache, its file, or its name (`digits/nano.glyphs`); None takes the newest. Several
        caches of the same images under different encoders make one head, which mixes a head for
        each; images are matched by their ids.
    method : str or sequence of str
        Names of the catalog; the two baselines are always beside them.
    shots : int, "all", or a sequence of these, optional
        Training images per class; None takes 16, or the largest class where it is smaller.
    seeds : int or sequence of int
        How many seeds (0, 1, ...), or which.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    self_train : int, optional
        K: of the proposals without a label, the K that a head is surest of become weighted
        pseudo-shots of each class, and the head is fitted again; it is kept if held-out shots say
        that it helps. The record's params say what happened. None leaves the methods as they are.
    self_train_rounds : int
        Rounds at most; as many are kept as held-out shots say.
    proposals : FeatureCache, Path or str, optional
        The cache of proposals; None is the one that `--proposals` wrote beside `cache`.
    ratio : float, "learn", "auto", or None
        Weight of the adapter, ratio * A(f) + (1 - ratio) * f, from 0 to 1. None takes the method's
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
        Images without labels that `auto` and the methods that need a pool look at: "test" for the
        test split, or another cache of the encoder. Their results are never ranked with others.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : {"auto", "fp32", "bf16"}
        Of the matrix products; "auto" takes bf16 where this CPU is faster at it.
    runs : Path or str, optional
        Folder that the run is saved in; None saves nothing.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is a method at a shot count.
    note : callable, optional
        Told in a sentence each, before the work, what a meta file has seen of the classes, and how
        long the training takes where that is long.
    **settings
        Hyper-parameters of one method alone (`alpha`, `ratios`, `recipe`, ...); the method's class
        documents them. "coop" and "cpl" need `tower=cafe.encoders.text_tower.load_tower(cache)`.

    Returns
    -------
    Record
        With `folder` saying where it was saved.

    Raises
    ------
    InputError
        If the arguments do not fit the cache; nothing is fitted or saved.
    CacheError
        If there is no such cache, or it cannot be read.

    Examples
    --------
    >>> record = cafe.fit("digits/nano.glyphs", shots=4, seeds=2, ratio=0.2)
    >>> [result.method for result in record.results]
    ['zero-shot', 'nearest-class', 'clip-adapter']
    >>> record.results[-1].accuracy.mean > 70
    True
    """
    sources = open_caches(cache)
    joined = join_caches(sources) if len(sources) > 1 else None
    source = cast("FeatureCache", joined) if joined else sources[0]
    methods = [method] if isinstance(method, str) else list(method)
    own_pool = pool in (None, "none", "test")
    extras = {"a pool but 'test'": not own_pool, "self-training": self_train is not None}
    extras["a sigmoid loss"] = settings.get("loss") == "sigmoid"
    check_joinable(methods, extras, len(sources))
    task = joined.task() if joined else load_task(source)
    common = (ratio, bottleneck, epochs, lr, weight_decay, batch_size)
    unlabelled = joined.test_pool() if joined and pool == "test" else pool
    settings |= pool_settings(source, unlabelled, methods)
    baselines, notes = choose_baselines(task.text, methods)
    names = list(dict.fromkeys([*baselines, *methods]))
    settings = resolve_settings(methods, common, settings)
    settings |= self_training(source, methods, self_train, self_train_rounds, proposals)
    plan = make_plan(task, names, shots, seeds, validation, settings, [DEFAULT_SHOTS])
    context = Context(resolve_device(device), precision)
    products = context.products
    check_runs_folder(runs)
    meta = [*(joined.notes if joined else ()), *meta_notes(source, plan.settings)]
    if note is not None:
        for text in [*meta, *cost_notes(task, plan, context)]:
            note(text)
    seen = [*meta, *describe_self_training(plan.settings)]
    protocol = describe_protocol(task, plan, seen, notes)
    results = run_study(task, plan, context=context, progress=progress)
    if note is not None:
        for text in few_class_notes(results):
            note(text)
    record = make_record(source, protocol, results, command, precision=products)
    if joined:
        record = replace(record, cache=tuple(escape_bytes(str(part.path)) for part in sources))
    return save_run(record, Path(runs)) if runs is not None else record
