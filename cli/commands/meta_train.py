"""`cafe meta-train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from .. import options as opt
from ..caches import open_caches
from ..output import megabytes, say
from ..progress import progress_bar
from ..recorded_command import recorded_command

MetaShots = Annotated[
    int, Option("--shots", help="Images that a class's text is refined by in training.")
]
Seed = Annotated[int, Option(help="Seed of weights, shots and order.")]


def meta_train(
    context: typer.Context,
    caches: opt.CacheNames = None,
    output: opt.Output[Path] = Path("meta.safetensors"),
    shots: MetaShots = 16,
    epochs: opt.Epochs[int] = 5,
    lr: opt.LearningRate[float] = 1e-4,
    seed: Seed = 0,
    cache: opt.CacheHome = None,
    dataset: opt.DatasetFilter = None,
    model: opt.ModelFilter = None,
    device: opt.Device = "auto",
) -> None:
    """Train Meta-Adapter once, for use on other caches. It takes all training images.

    Example: cafe meta-train digits/nano.glyphs -o meta.safetensors
    """
    from cafe.study.meta_train import meta_train as run

    features = open_caches(caches, cache, dataset, model)
    with progress_bar("steps", interrupted=f"'{output}' was not written.") as progress:
        weights = run(
            features,
            output=output,
            shots=shots,
            epochs=epochs,
            lr=lr,
            seed=seed,
            device=device,
            command=recorded_command(context, features),
            progress=progress,
        )
    say(
        f"{weights.path}: {megabytes(weights.path)}, trained on "
        f"{', '.join(weights.datasets)} of {weights.encoder}, loss {weights.about['loss']:.3f} in "
        "the last epoch."
    )
    say(f"Next: cafe fit OTHER-CACHE --method meta-adapter --meta {weights.path}")
