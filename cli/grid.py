"""`cafe grid`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.errors import InputError

from .options import (
    CacheHome,
    CacheName,
    DatasetFilter,
    Device,
    Json,
    ModelFilter,
    RunsHome,
    open_cache,
    parse_bytes,
    parse_seeds,
    parse_shots,
    say,
)
from .progress import interruptible, progress_bar

if TYPE_CHECKING:
    from cafe.store import FeatureCache
    from cafe.study.grid.space import GridSpace

MANY_RUNS = 20_000


class GridValidation(str, Enum):
    """What configurations are chosen on; never the test set."""

    few_shot = "few-shot"
    full = "full"
    cv = "cv"


class Branch(str, Enum):
    """Which features are adapted."""

    visual = "visual"
    text = "text"
    both = "both"


def grid(
    cache_argument: CacheName = None,
    ratio: Annotated[
        str, typer.Option(help="Ratios: a list 0.1,0.4 or a range 0.1:0.9:0.1 with both ends.")
    ] = "0.1:0.9:0.1",
    bottleneck: Annotated[
        str, typer.Option(help="Hidden widths: whole numbers or parts of D.")
    ] = "D/2,D/4,D/8",
    shots: Annotated[
        str, typer.Option(help="Training images per class, one or several counts.")
    ] = "16",
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list such as 0,5,7.")] = "3",
    validation: Annotated[
        GridValidation, typer.Option(help="What the best configuration is chosen on.")
    ] = GridValidation.cv,
    lr: Annotated[str, typer.Option(help="Learning rates: a list or a range.")] = "0.001",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 50,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 1e-2,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 256,
    branch: Annotated[Branch, typer.Option(help="Which features are adapted.")] = Branch.visual,
    cache: CacheHome = None,
    dataset: DatasetFilter = None,
    model: ModelFilter = None,
    runs: RunsHome = Path("runs"),
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16 matrix products.")] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(help="Memory for runs side by side, as 2GB [default: half the free]."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"Go on with more than {MANY_RUNS:,} runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a grid of CLIP-Adapters side by side, choose on validation and test the chosen once.

    Example: cafe grid digits/nano.glyphs --ratio 0.1:0.9:0.1 --bottleneck D/2,D/4 --shots 1,4,16
    """
    from cafe.devices import resolve_device
    from cafe.engine import Recipe
    from cafe.methods.base import Context
    from cafe.study.grid.search import grid as run
    from cafe.study.grid.space import GridSpace, span

    space = GridSpace(
        ratios=span(ratio),
        bottlenecks=[word.strip() for word in bottleneck.split(",") if word.strip()],
        lrs=span(lr),
        shots=parse_shots(shots),
        seeds=parse_seeds(seeds),
        validation=validation.value,
        branch=branch.value,
        recipe=Recipe(weight_decay=weight_decay, epochs=epochs, batch_size=batch_size),
    )
    source = open_cache(cache_argument, cache, dataset, model)
    _agree(space, source, yes=yes)
    context = Context(resolve_device(device), precision, parse_bytes(memory))  # type: ignore[arg-type]
    with (
        interruptible("finished runs are kept: run the same command again to go on."),
        progress_bar("run-epochs", quiet=as_json) as progress,
    ):
        found = run(
            source,
            space,
            context=context,
            runs=runs,
            command=shlex.join(["cafe", *sys.argv[1:]]),
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(found.json()))
        say(f"saved to {found.record.folder}")
        return
    from .heatmap import print_heatmaps
    from .tables import print_chosen, print_results, print_shots

    print_heatmaps(found.rows, space)
    print_chosen(found.best, space.validation)
    (print_shots if len(space.shots) > 1 else print_results)(found.record.results)
    rate = found.trained / found.seconds if found.trained else 0
    earlier = len(found.rows) - found.trained
    typer.echo(
        f"\n{found.trained:,} runs in {found.seconds:.1f} s ({rate:.1f} runs/s)"
        f"{f', {earlier:,} from an earlier sitting' if earlier else ''}. "
        f"{found.record.json['protocol']['words']}\nSaved to {found.record.folder}"
    )


def _agree(space: GridSpace, source: FeatureCache, *, yes: bool) -> None:
    """Say what a very large grid will cost, and go on only when told to."""
    count = len(space.ratios) * len(space.bottlenecks) * len(space.lrs)
    count *= len(space.shots) * len(space.seeds)
    if count <= MANY_RUNS or yes:
        return
    import torch

    from cafe.devices import product_rate
    from cafe.features.task import load_task
    from cafe.study.grid.space import training_flops

    rate = product_rate(torch.device("cpu"), torch.float32)
    hours = training_flops(space, load_task(source)) / rate / 3600
    raise InputError(
        f"this grid is {count:,} runs, {hours:,.1f} hours or more at this machine's rate of matrix "
        "products in float32; use --yes to go on, or a coarser grid."
    )
