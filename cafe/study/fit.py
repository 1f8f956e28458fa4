"""`cafe.fit` and `cafe.grid`: from a cache to the saved run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from cafe.cluster import Engine, check_engine
from cafe.devices import ProductPrecision, resolve_device
from cafe.engine import Recipe
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
from cafe.study.grid.search import GridResult, search
from cafe.study.grid.space import GridSpace, check_size, span
from cafe.study.meta_train import meta_notes
from cafe.study.plan import (
    check_joinable,
    describe_protocol,
    make_plan,
    open_caches,
    resolve_seeds,
    resolve_settings,
    resolve_shots,
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
        Of the matrix products; "auto" takes bf16 where this machine is faster at it.
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


def grid(
    cache: FeatureCache | Path | str | None = None,
    *,
    ratio: str | float | Sequence[float] = "0.1:0.9:0.1",
    bottleneck: str | int | Sequence[str | int] = ("D/2", "D/4", "D/8"),
    shots: Shots | Sequence[Shots] = 16,
    seeds: int | Sequence[int] = 3,
    validation: Literal["few-shot", "full", "cv"] = "cv",
    lr: str | float | Sequence[float] = 1e-3,
    epochs: int = 50,
    weight_decay: float = 1e-2,
    batch_size: int = 256,
    branch: Literal["visual", "text", "both"] = "visual",
    device: str = "auto",
    precision: ProductPrecision = "auto",
    memory: int | None = None,
    max_runs: int | None = None,
    engine: Engine = "local",
    runs: Path | str = "runs",
    command: str = "",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> GridResult:
    """Train a grid of CLIP-Adapters side by side, choose on validation and test the chosen once.

    Parameters
    ----------
    cache : FeatureCache, Path or str, optional
        The cache, its file, or its name (`digits/nano.glyphs`); None takes the newest.
    ratio, lr : str, float or sequence of float
        Numbers, or as on the command line: "0.1,0.4", or "0.1:0.9:0.1" with both ends.
    bottleneck : str, int or sequence of these
        Hidden widths: whole numbers, or parts of the feature width ("D/4").
    shots : int, "all", or a sequence of these
        Training images per class; a configuration is chosen for each.
    seeds : int or sequence of int
        How many seeds (0, 1, ...), or which.
    validation : {"few-shot", "full", "cv"}
        What configurations are chosen on, never the test set.
    epochs : int
        Passes over the training images.
    weight_decay : float
        Decoupled weight decay.
    batch_size : int
        Images per step.
    branch : {"visual", "text", "both"}
        Which features are adapted.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : {"auto", "fp32", "bf16"}
        Of the matrix products.
    memory : int, optional
        Bytes for runs side by side; None takes half of what is free.
    max_runs : int, optional
        Refuse a grid of more runs, with an estimate of its time; None takes any.
    engine : {"local", "ray"}
        Train here, or on all machines of a Ray cluster, which see the cache under one path.
    runs : Path or str
        Folder that the run is saved in; an interrupted grid goes on from what it finds there.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is an epoch of one run.
    note : callable, optional
        Told in a sentence what is taken of an interrupted grid, before the training; None logs it.

    Returns
    -------
    GridResult

    Raises
    ------
    InputError
        If the grid does not fit the cache, or is larger than `max_runs`.
    BusyError
        If another process trains the same grid for the same folder.

    Examples
    --------
    >>> grid = cafe.grid("digits/nano.glyphs", ratio=[0.2, 0.6], bottleneck="D/8", shots=2,
    ...                  seeds=1, epochs=3)
    >>> len(grid.rows), grid.best[0]["bottleneck"]
    (2, 'D/8')
    """
    check_engine(engine)
    space = GridSpace(
        ratios=_numbers(ratio),
        bottlenecks=_widths(bottleneck),
        lrs=_numbers(lr),
        shots=resolve_shots(shots),
        seeds=resolve_seeds(seeds),
        validation=validation,
        branch=branch,
        recipe=Recipe(weight_decay=weight_decay, epochs=epochs, batch_size=batch_size),
    )
    context = Context(resolve_device(device), precision, memory)
    source = FeatureCache.open(cache)
    if max_runs is not None:
        check_size(space, source, max_runs)
    more: dict[str, Any] = {"command": command, "progress": progress, "note": note}
    return search(source, space, context, Path(runs), engine=engine, **more)


def _numbers(values: str | float | Sequence[float]) -> list[float]:
    if isinstance(values, str):
        return span(values)
    return [float(v) for v in ([values] if isinstance(values, int | float) else values)]


def _widths(values: str | int | Sequence[str | int]) -> list[str]:
    if isinstance(values, str):
        return [word.strip() for word in values.split(",") if word.strip()]
    return [str(v) for v in ([values] if isinstance(values, int) else values)]
