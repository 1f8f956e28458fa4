"""`cafe demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import CacheHome, RunsHome, say
from .progress import interruptible, progress_bar

SHOTS = (1, 4, 16)
SEEDS = range(10)


def demo(cache: CacheHome = None, runs: RunsHome = Path("runs")) -> None:
    """Run the whole job on what ships with cafe: real handwritten digits seen by a small CLIP.

    Example: cafe demo
    """
    from cafe.datasets import load_dataset
    from cafe.datasets.prompts import fill
    from cafe.encoders.encoder import load_encoder
    from cafe.encoders.weights import NANO, encoder_names
    from cafe.extract.blocks import ExtractOptions
    from cafe.extract.extract import extract
    from cafe.store.paths import cache_folder, cache_path
    from cafe.study.fit import fit

    from .tables import print_shots

    digits = load_dataset("digits")
    path = cache_path(cache_folder(cache), "digits", *encoder_names(NANO, None))
    with interruptible("run it again to go on."):
        say("1. The frozen encoder 'nano' sees every image once ...")
        with progress_bar("images") as progress:
            sentences = fill(digits.class_names, digits.templates)
            options = ExtractOptions(progress=progress)
            encoder = load_encoder(NANO)
            done = extract(digits, encoder, path, sentences=sentences, options=options)
        if done.was_there:
            say(f"   {path} was there already.")
        else:
            say(f"   {done.images:,} images in {done.seconds:.1f} s -> {path}")
        say("2. Heads are fitted on the cached features ...")
        with progress_bar("fits") as progress:
            record = fit(
                path, shots=SHOTS, seeds=SEEDS, runs=runs, command="cafe demo", progress=progress
            )
    seconds = sum(result.seconds for result in record.results)
    say(f"   {len(record.results) * len(SEEDS)} fits in {seconds:.1f} s\n")
    print_shots(record.results)
    typer.echo(f"\n{record.json['protocol']['words']}\nSaved to {record.folder}\n")
    typer.echo("Next, on your own images (one folder per class):")
    typer.echo("  cafe extract --dataset ./photos --model nano")
    typer.echo("  cafe fit --ratio 0.2 --shots 4")
    typer.echo("  cafe cache ls")
