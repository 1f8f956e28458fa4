"""`cafe fit`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    CacheHome,
    CacheName,
    DatasetFilter,
    Device,
    Json,
    ModelFilter,
    RunsHome,
    open_cache,
    parse_seeds,
    parse_shots,
    say,
)
from .progress import interruptible, progress_bar


class ValidationProtocol(str, Enum):
    """What hyper-parameters are chosen on."""

    none = "none"
    few_shot = "few-shot"
    full = "full"
    cv = "cv"


def fit(
    cache_argument: CacheName = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A name of 'cafe methods'; may be given several times."),
    ] = None,
    ratio: Annotated[
        float, typer.Option(help="Weight of the adapter: ratio * A(f) + (1 - ratio) * f.")
    ] = 0.2,
    bottleneck: Annotated[
        str, typer.Option(help="Hidden width: a number, or D/4 of the feature width D.")
    ] = "D/4",
    shots: Annotated[str, typer.Option(help="Training images per class, or 'all'.")] = "16",
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list such as 0,5,7.")] = "3",
    validation: Annotated[
        ValidationProtocol, typer.Option(help="What hyper-parameters are chosen on.")
    ] = ValidationProtocol.none,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 50,
    lr: Annotated[float, typer.Option(help="Learning rate at the start (AdamW, cosine).")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 256,
    cache: CacheHome = None,
    dataset: DatasetFilter = None,
    model: ModelFilter = None,
    runs: RunsHome = Path("runs"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit CLIP-Adapter on a cache and compare it with zero-shot CLIP and the nearest class mean.

    Example: cafe fit digits/nano.glyphs --ratio 0.2 --shots 16
    """
    from cafe.devices import resolve_device
    from cafe.engine import Recipe
    from cafe.features import load_task
    from cafe.methods.base import Context
    from cafe.methods.catalog import BASELINES
    from cafe.results import make_record, save_run
    from cafe.study import Plan, check_plan, protocol_in_words, run

    source = open_cache(cache_argument, cache, dataset, model)
    recipe = Recipe(lr=lr, weight_decay=weight_decay, epochs=epochs, batch_size=batch_size)
    plan = Plan(
        methods=list(dict.fromkeys([*BASELINES, *(method or ["clip-adapter"])])),
        shots=parse_shots(shots),
        seeds=parse_seeds(seeds),
        validation=validation.value,
        settings={"ratio": ratio, "bottleneck": bottleneck, "recipe": recipe},
    )
    context = Context(device=resolve_device(device))
    task = load_task(source)
    check_plan(task, plan)
    with (
        interruptible("nothing was saved; 'cafe grid' keeps what is done."),
        progress_bar("fits", quiet=as_json) as progress,
    ):
        results = run(task, plan, context=context, progress=progress)
    command = shlex.join(["cafe", *sys.argv[1:]])
    record = make_record(source, plan, protocol_in_words(task, plan), results, command)
    folder = save_run(record, runs, f"{source.header.dataset}-{source.header.model}")
    if as_json:
        typer.echo(json.dumps(record.json))
        say(f"saved to {folder}")
        return
    from .tables import print_results, print_shots

    print_results(results) if len(plan.shots) == 1 else print_shots(results)
    typer.echo(f"\n{record.json['protocol']['words']}\nSaved to {folder}")
