"""`cafe fit`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .needs import EncoderFolder, EncoderWeights, needs_of
from .options import (
    CacheHome,
    CacheName,
    DatasetFilter,
    Device,
    Json,
    MetaWeights,
    ModelFilter,
    RunsHome,
    open_cache,
    parse_prompt,
    parse_ratio,
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
        str | None,
        typer.Option(
            help="Weight of the adapter, ratio * A(f) + (1 - ratio) * f: 0 to 1, learn, or auto; "
            "several (0.1,0.2,0.4) are chosen among by --validation [default: 0.2].",
            show_default=False,
        ),
    ] = None,
    bottleneck: Annotated[
        str | None,
        typer.Option(help="Hidden width: a number, or a part of the feature width [default: D/4]."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            help="Training images per class, several counts, or all [default: 16 or fewer]."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list such as 0,5,7.")] = "3",
    validation: Annotated[
        ValidationProtocol, typer.Option(help="What hyper-parameters are chosen on.")
    ] = ValidationProtocol.none,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images [default: the method's].")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the first step [default: the method's].")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Decoupled weight decay [default: the method's].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step [default: the method's].")
    ] = None,
    counterfactual: Annotated[
        bool,
        typer.Option(
            "--counterfactual", help="Train clip-adapter to tell images from counterfactuals."
        ),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Of coop and cpl: how many words to learn, or words to start from [default: 16].",
            show_default=False,
        ),
    ] = None,
    class_specific: Annotated[
        bool,
        typer.Option("--class-specific", help="Of coop and cpl: learn words for each class."),
    ] = False,
    words: Annotated[
        Path | None,
        typer.Option(help="Of sgva: a saved head of coop or cpl, whose learned words it takes."),
    ] = None,
    encoder: EncoderFolder = None,
    pretrained: EncoderWeights = None,
    meta: MetaWeights = None,
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
    from cafe.study.fit import fit as run
    from cafe.study.provenance import meta_notes

    settings = {
        **parse_ratio(ratio),
        "bottleneck": bottleneck,
        "epochs": epochs,
        "lr": lr,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "counterfactual": 1.0 if counterfactual else None,
        "prompt": None if prompt is None else parse_prompt(prompt),
        "class_specific": class_specific or None,
        "words": None if words is None else str(words),
        "meta": None if meta is None else str(meta),
    }
    methods = method or ["clip-adapter"]
    needs = needs_of(methods, encoder, pretrained, device)
    source = open_cache(cache_argument, cache, dataset, model)
    for note in meta_notes(source, settings):
        say(f"cafe: {note}")
    with (
        interruptible("nothing was saved; 'cafe grid' keeps what is done."),
        progress_bar("fits", quiet=as_json) as progress,
    ):
        record = run(
            source,
            method=methods,
            shots=None if shots is None else parse_shots(shots),
            seeds=parse_seeds(seeds),
            validation=validation.value,
            device=device,
            runs=runs,
            command=shlex.join(["cafe", *sys.argv[1:]]),
            progress=progress,
            **needs(source),
            **{name: value for name, value in settings.items() if value is not None},
        )
    if as_json:
        typer.echo(json.dumps(record.json))
        say(f"saved to {record.folder}")
        return
    from .plots import print_bars
    from .tables import print_results, print_shots

    several = isinstance(record.json["protocol"]["shots"], list)
    (print_shots if several else print_results)(record.results)
    if not several:
        print_bars({result.method: result.accuracy.mean for result in record.results})
    typer.echo(f"\n{record.json['protocol']['words']}\nSaved to {record.folder}")
