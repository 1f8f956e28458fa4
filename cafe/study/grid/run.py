"""`cafe.grid`: from a cache to the saved run of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cafe.cluster import Engine, check_engine
from cafe.devices import ProductPrecision, resolve_device
from cafe.engine import Recipe
from cafe.features.splits import Shots
from cafe.methods.base import Context
from cafe.progress import Progress
from cafe.store import FeatureCache
from cafe.study.grid.search import GridResult, search
from cafe.study.grid.space import GridSpace, check_size, span
from cafe.study.plan import resolve_seeds, resolve_shots


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
