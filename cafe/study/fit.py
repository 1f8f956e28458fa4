"""`cafe.fit` and `cafe.grid`: the commands as library calls, from the cache to the saved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cafe.devices import resolve_device
from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.splits import Shots
from cafe.features.task import Task, load_task
from cafe.methods.base import Context, Protocol
from cafe.methods.catalog import BASELINES, find_method
from cafe.results.plan import StudyPlan
from cafe.results.record import Record, make_record, save_run
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, find_caches
from cafe.study.calibration import calibrate
from cafe.study.grid.search import GridResult
from cafe.study.grid.search import grid as search
from cafe.study.grid.space import GridSpace, check_size, span
from cafe.study.provenance import meta_notes
from cafe.study.study import Progress, check_plan, class_counts, protocol_in_words, run

DEFAULT_SHOTS = 16


def fit(
    cache: FeatureCache | Path | str | None = None,
    *,
    method: str | Sequence[str] = "clip-adapter",
    shots: Shots | Sequence[Shots] | None = None,
    seeds: int | Sequence[int] = 3,
    validation: Protocol = "none",
    device: str = "auto",
    runs: Path | str | None = "runs",
    command: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Record:
    """Fit heads on a cache and compare them with zero-shot CLIP and the nearest class mean.

    Parameters
    ----------
    cache : FeatureCache, Path or str, optional
        The cache, its file, or its name (`digits/nano.glyphs`); None takes the newest.
    method : str or sequence of str
        Names of the catalog; the two baselines are always beside them.
    shots : int, "all", or a sequence of these, optional
        Training images per class; None takes 16, or the largest class where it is smaller.
    seeds : int or sequence of int
        How many seeds (0, 1, ...), or which.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    runs : Path or str, optional
        Folder that the run is saved in; None saves nothing.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        See `cafe.study.study.Progress`.
    **settings
        Hyper-parameters (`ratio`, `bottleneck`, `recipe`, ...); each method takes those it knows.
        "coop" and "cpl" need `tower=cafe.encoders.text_tower.load_tower(cache)`.

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
    >>> record.json["results"][-1]["accuracy"]["mean"] > 70
    True
    """
    source = _open(cache)
    asked = [method] if isinstance(method, str) else list(method)
    task = load_task(source)
    plan = StudyPlan(
        methods=list(dict.fromkeys([*BASELINES, *asked])),
        shots=_shots(shots, task),
        seeds=list(range(seeds)) if isinstance(seeds, int) else list(seeds),
        validation=validation,
        settings=_settings(asked, settings),
    )
    context = Context(device=resolve_device(device))
    check_plan(task, plan)
    notes = meta_notes(source, plan.settings)
    results = run(task, plan, context=context, progress=progress)
    words = " ".join([protocol_in_words(task, plan), *notes])
    sure = calibrate(source, plan, results, progress)
    record = make_record(source, plan, words, results, command, sure)
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
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    memory: int | None = None,
    max_runs: int | None = None,
    runs: Path | str = "runs",
    command: str = "",
    progress: Progress | None = None,
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
    epochs, weight_decay, batch_size : int, float, int
        The rest of the recipe.
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
    runs : Path or str
        Folder that the run is saved in; an interrupted grid goes on from what it finds there.
    command : str
        The command that asked for it, for the record.
    progress : callable, optional
        Called with a stage, the run-epochs done and those in all.

    Returns
    -------
    GridResult

    Raises
    ------
    InputError
        If the grid does not fit the cache, or is larger than `max_runs`.

    Examples
    --------
    >>> found = cafe.grid("digits/nano.glyphs", ratio=[0.2, 0.6], bottleneck="D/8", shots=2,
    ...                   seeds=1, epochs=3)
    >>> len(found.rows), found.best[0]["bottleneck"]
    (2, 'D/8')
    """
    if isinstance(bottleneck, str):
        bottleneck = [word.strip() for word in bottleneck.split(",") if word.strip()]
    space = GridSpace(
        ratios=_numbers(ratio),
        bottlenecks=list(map(str, [bottleneck] if isinstance(bottleneck, int) else bottleneck)),
        lrs=_numbers(lr),
        shots=[shots] if isinstance(shots, int | str) else list(shots),
        seeds=list(range(seeds)) if isinstance(seeds, int) else list(seeds),
        validation=validation,
        branch=branch,
        recipe=Recipe(weight_decay=weight_decay, epochs=epochs, batch_size=batch_size),
    )
    context = Context(resolve_device(device), precision, memory)
    home = Path(runs)
    source = _open(cache)
    if max_runs is not None:
        check_size(space, source, max_runs)
    return search(source, space, context=context, runs=home, command=command, progress=progress)


def _numbers(given: str | float | Sequence[float]) -> list[float]:
    if isinstance(given, str):
        return span(given)
    return [float(given)] if isinstance(given, int | float) else [float(one) for one in given]


def _open(cache: FeatureCache | Path | str | None) -> FeatureCache:
    if isinstance(cache, FeatureCache):
        return cache
    return FeatureCache.open(find_caches(cache_folder(), None if cache is None else str(cache))[0])


def _shots(shots: Shots | Sequence[Shots] | None, task: Task) -> list[Shots]:
    if shots is None:
        return [min(DEFAULT_SHOTS, int(class_counts(task).max()))]
    return [shots] if isinstance(shots, int | str) else list(shots)


def _settings(methods: Sequence[str], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse a hyper-parameter that none of the methods knows: it would change nothing."""
    known = {name for method in methods for name in find_method(method).settings()}
    for name in settings:
        if name not in known:
            raise InputError(
                f"{', '.join(methods)} has no setting '{name}'; it has "
                f"{', '.join(sorted(known)) or 'none'}."
            )
    return settings
