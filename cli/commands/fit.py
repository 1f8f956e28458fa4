"""`cafe fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from .. import options as opt
from ..caches import encoder_names, named_beside, open_caches
from ..class_balance import read_class_balance
from ..output import note, print_saved_json, say
from ..parsing import (
    parse_methods,
    parse_prompt,
    parse_ratio,
    parse_seeds,
    parse_shots,
    without_none,
)
from ..progress import progress_bar
from ..recorded_command import recorded_command
from ..result_tables import print_protocol, print_results
from ..text_tower import tower_loader

if TYPE_CHECKING:
    from cafe.results.record import Record

Counterfactual = Annotated[
    bool | None,
    Option("--counterfactual", help="Train clip-adapter to tell images from counterfactuals."),
]
Balance = Annotated[
    bool | None,
    Option("--balance", help="Of tip-adapter and tip-adapter-f: count each class the same."),
]
Prompt = Annotated[
    str | None,
    Option(help="Of coop and cpl: how many words to learn, or words to start from [default: 16]."),
]
ClassSpecific = Annotated[
    bool | None, Option("--class-specific", help="Of coop and cpl: learn words for each class.")
]
Words = Annotated[
    str | None,
    Option(
        metavar="FILE", help="Of sgva: a saved head of coop or cpl, whose learned words it takes."
    ),
]

_INTERRUPTED = "nothing was saved; 'cafe grid' keeps what is done."


def fit(
    context: typer.Context,
    caches: opt.FitCaches = None,
    method: opt.Methods = None,
    ratio: opt.Ratio = None,
    bottleneck: opt.Bottleneck = None,
    shots: opt.Shots[str | None] = None,
    seeds: opt.Seeds = "3",
    validation: opt.AnyValidation = "none",
    self_train: opt.SelfTrain = None,
    self_train_rounds: opt.SelfTrainRounds = 1,
    proposals: opt.PoolOfProposals = None,
    epochs: opt.Epochs[int | None] = None,
    lr: opt.LearningRate[float | None] = None,
    weight_decay: opt.WeightDecay[float | None] = None,
    batch_size: opt.BatchSize[int | None] = None,
    counterfactual: Counterfactual = None,
    balance: Balance = None,
    prompt: Prompt = None,
    class_specific: ClassSpecific = None,
    words: Words = None,
    encoder: opt.TowerModel = None,
    pretrained: opt.TowerWeights = None,
    meta: opt.MetaWeights = None,
    pool: opt.Pool = None,
    class_balance: opt.ClassBalance = None,
    prompts_weighting: opt.PromptsWeighting = None,
    loss: opt.Loss = None,
    cache: opt.CacheHome = None,
    dataset: opt.DatasetFilter = None,
    model: opt.ModelFilter = None,
    runs: opt.RunsHome = Path("runs"),
    device: opt.Device = "auto",
    precision: opt.ProductPrecision = "auto",
    verbose: opt.Verbose = False,
    as_json: opt.Json = False,
) -> None:
    """Fit a head on a few images per class. By default CLIP-Adapter on 16, beside two baselines.

    Example: cafe fit digits/nano.glyphs --ratio 0.2 --shots 16
    """
    from cafe.study.fit import fit as run

    features = open_caches(caches, cache, dataset, model)
    settings = without_none(
        validation=validation,
        self_train=self_train,
        self_train_rounds=self_train_rounds,
        proposals=named_beside(proposals, cache),
        runs=runs,
        device=device,
        precision=precision,
        bottleneck=bottleneck,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        pool=named_beside(pool, cache, encoder_names(*features)),
        counterfactual=counterfactual,
        balance=balance,
        class_specific=class_specific,
        words=words,
        meta=meta,
        class_balance=read_class_balance(class_balance),
        prompts_weighting=prompts_weighting,
        loss=loss,
        prompt=parse_prompt(prompt),
        **parse_ratio(ratio),
    )
    methods = parse_methods(method) or ["clip-adapter"]
    settings |= tower_loader(methods, encoder, pretrained, device)(features[0])
    with progress_bar("fits", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        record = run(
            features,
            method=methods,
            shots=None if shots is None else parse_shots(shots),
            seeds=parse_seeds(seeds),
            command=recorded_command(context, features, settings.get("pool")),
            progress=progress,
            note=lambda text: note(f"cafe: {text}"),
            **settings,
        )
    _print(record, as_json=as_json, verbose=verbose)


def _print(record: Record, *, as_json: bool, verbose: bool) -> None:
    from cafe.study.self_train import what_happened

    note(*what_happened(record.results))
    if as_json:
        print_saved_json(record.json, record.folder)
        return
    print_results(record)
    print_protocol(record, verbose=verbose)
    say(f"Saved to {record.folder}")
