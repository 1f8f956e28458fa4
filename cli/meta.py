"""`cafe meta-train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import CacheHome, DatasetFilter, Device, ModelFilter, open_cache
from .progress import interruptible, progress_bar


def meta_train(
    caches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CACHE]...",
            help="Caches of one encoder: files, or names such as digits/nano.glyphs "
            "[default: the newest].",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file of weights.")
    ] = Path("meta.safetensors"),
    shots: Annotated[
        int, typer.Option(help="Images that a class's text is refined by in training.")
    ] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over all training images.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of weights, shots and order.")] = 0,
    cache: CacheHome = None,
    dataset: DatasetFilter = None,
    model: ModelFilter = None,
    device: Device = "auto",
) -> None:
    """Train Meta-Adapter's weights once, on all training images of caches, for use on any others.

    Example: cafe meta-train digits/nano.glyphs -o meta.safetensors
    """
    from cafe.study.meta_train import meta_train as run

    names: list[str | None] = [*caches] if caches else [None]
    with (
        interruptible(f"'{output}' was not written."),
        progress_bar("steps") as progress,
    ):
        made = run(
            [open_cache(name, cache, dataset, model) for name in names],
            output=output,
            shots=shots,
            epochs=epochs,
            lr=lr,
            seed=seed,
            device=device,
            command=shlex.join(["cafe", *sys.argv[1:]]),
            progress=progress,
        )
    size = made.path.stat().st_size / 1e6
    typer.echo(
        f"{made.path}: {size:.1f} MB, trained on {', '.join(made.datasets)} of {made.encoder}, "
        f"loss {made.about['loss']:.3f} in the last epoch."
    )
    typer.echo(f"Next: cafe fit OTHER-CACHE --method meta-adapter --meta {made.path}")
