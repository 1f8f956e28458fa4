"""`cafe demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import CacheHome, RunsHome, say
from .progress import interruptible, progress_bar

SHOTS = (1, 4, 16)
SEEDS = (0, 1, 2, 3, 4)


def demo(cache: CacheHome = None, runs: RunsHome = Path("runs")) -> None:
    """Run the whole job on what ships with cafe: real handwritten digits seen by a small CLIP.

    Example: cafe demo
    """
    from cafe.datasets import load_dataset
    from cafe.encoders import NANO, encoder_names, load_encoder
    from cafe.extract import Options, extract
    from cafe.features import load_task
    from cafe.home import cache_home, cache_path
    from cafe.methods.catalog import BASELINES
    from cafe.prompts import fill
    from cafe.results import make_record, save_run
    from cafe.store import FeatureCache
    from cafe.study import Plan, protocol_in_words, run

    from .tables import print_shots

    digits = load_dataset("digits")
    path = cache_path(cache_home(cache), "digits", *encoder_names(NANO, None))
    with interruptible("run it again to go on."):
        say("1. The frozen encoder 'nano' sees every image once ...")
        with progress_bar("images") as progress:
            sentences = fill(digits.class_names, digits.templates)
            options = Options(progress=progress)
            encoder = load_encoder(NANO)
            done = extract(digits, encoder, path, sentences=sentences, options=options)
        if done.was_there:
            say(f"   {path} was there already.")
        else:
            say(f"   {done.images:,} images in {done.seconds:.1f} s -> {path}")
        say("2. Heads are fitted on the cached features ...")
        source = FeatureCache.open(path)
        task = load_task(source)
        plan = Plan(methods=[*BASELINES, "clip-adapter"], shots=SHOTS, seeds=SEEDS)
        with progress_bar("fits") as progress:
            results = run(task, plan, progress=progress)
    seconds = sum(result.seconds for result in results)
    say(f"   {len(results) * len(SEEDS)} fits in {seconds:.1f} s\n")
    record = make_record(source, plan, protocol_in_words(task, plan), results, "cafe demo")
    folder = save_run(record, runs, "demo")
    print_shots(results)
    typer.echo(f"\n{record.json['protocol']['words']}\nSaved to {folder}\n")
    typer.echo("Next, on your own images (one folder per class):")
    typer.echo("  cafe extract --dataset ./photos --model nano")
    typer.echo("  cafe fit --ratio 0.2 --shots 4")
    typer.echo("  cafe cache ls")
