"""`cafe grid`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from cafe.errors import counted

from .. import options as opt
from ..caches import open_cache
from ..heatmap import print_heatmaps
from ..output import note, print_saved_json, say
from ..parsing import parse_bytes, parse_seeds, parse_shots
from ..progress import progress_bar
from ..recorded_command import recorded_command
from ..result_tables import print_chosen, print_protocol, print_results

if TYPE_CHECKING:
    from cafe.study.grid.search import GridResult

MANY_RUNS = 20_000

Ratios = Annotated[
    str, Option(help="Ratios: a list 0.1,0.4 or a range 0.1:0.9:0.1 with both ends.")
]
Bottlenecks = Annotated[str, Option(help="Hidden widths: whole numbers or parts of D.")]
LearningRates = Annotated[
    str, Option("--lr", help="Learning rates of the first step: a list or a range.")
]
Branch = Annotated[Literal["visual", "text", "both"], Option(help="Which features are adapted.")]
Memory = Annotated[
    str | None, Option(help="Memory for runs side by side, as 2GB [default: half the free].")
]
Yes = Annotated[bool, Option("--yes", "-y", help=f"Go on with more than {MANY_RUNS:,} runs.")]


def grid(
    context: typer.Context,
    cache_argument: opt.CacheName = None,
    ratio: Ratios = "0.1:0.9:0.1",
    bottleneck: Bottlenecks = "D/2,D/4,D/8",
    shots: opt.Shots[str] = "16",
    seeds: opt.Seeds = "3",
    validation: opt.Validation[Literal["few-shot", "full", "cv"]] = "cv",
    lr: LearningRates = "0.001",
    epochs: opt.Epochs[int] = 50,
    weight_decay: opt.WeightDecay[float] = 1e-2,
    batch_size: opt.BatchSize[int] = 256,
    branch: Branch = "visual",
    cache: opt.CacheHome = None,
    dataset: opt.DatasetFilter = None,
    model: opt.ModelFilter = None,
    runs: opt.RunsHome = Path("runs"),
    device: opt.Device = "auto",
    precision: opt.ProductPrecision = "auto",
    memory: Memory = None,
    engine: opt.Engine = "local",
    yes: Yes = False,
    verbose: opt.Verbose = False,
    as_json: opt.Json = False,
) -> None:
    """Train a grid of CLIP-Adapters side by side. The one that validation chooses is tested once.

    Example: cafe grid digits/nano.glyphs --ratio 0.1:0.9:0.1 --bottleneck D/2,D/4 --shots 1,4,16
    """
    from cafe.study.grid.run import grid as run

    features = open_cache(cache_argument, cache, dataset, model)
    kept = "finished runs are kept: run the same command again to go on."
    with progress_bar("run-epochs", interrupted=kept, quiet=as_json) as progress:
        result = run(
            features,
            ratio=ratio,
            bottleneck=bottleneck,
            shots=parse_shots(shots),
            seeds=parse_seeds(seeds),
            validation=validation,
            lr=lr,
            epochs=epochs,
            weight_decay=weight_decay,
            batch_size=batch_size,
            branch=branch,
            device=device,
            precision=precision,
            memory=None if memory is None else parse_bytes(memory),
            max_runs=None if yes else MANY_RUNS,
            engine=engine,
            runs=runs,
            command=recorded_command(context, [features]),
            progress=progress,
            note=note,
        )
    _print(result, as_json=as_json, verbose=verbose)


def _print(result: GridResult, *, as_json: bool, verbose: bool) -> None:
    record = result.record
    if as_json:
        print_saved_json(result.json(), record.folder)
        return
    print_heatmaps(result.rows, record.protocol.validation)
    print_chosen(record.best_per_shots or (), record.protocol.validation)
    print_results(record)
    rate = result.trained / result.seconds if result.trained else 0
    earlier = len(result.rows) - result.trained
    say(
        "",
        f"{counted(result.trained, 'run')} in {result.seconds:.1f} s ({rate:.1f} runs/s)"
        f"{f', {earlier:,} from an earlier sitting' if earlier else ''}.",
    )
    print_protocol(record, verbose=verbose)
    say(f"Saved to {record.folder}")
