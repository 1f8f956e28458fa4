"""`cafe compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from cafe.errors import InputError, verb

from .. import options as opt
from ..caches import encoder_names, named_beside, open_caches
from ..class_balance import read_class_balance
from ..output import note, print_json, print_saved_json, say
from ..parsing import parse_methods, parse_seeds, parse_shots, without_none
from ..progress import progress_bar
from ..recorded_command import recorded_command
from ..result_tables import (
    print_comparison,
    print_leaderboard,
    print_protocol,
    print_published,
    print_records_csv,
)
from ..text_tower import tower_loader

if TYPE_CHECKING:
    from cafe.store import FeatureCache
    from cafe.study.compare_one import Comparison

BaseToNew = Annotated[
    bool, Option("--base-to-new", help="Fit on the first half of the classes, test on both halves.")
]
Format = Annotated[
    Literal["table", "csv"], Option("--format", help="A table for people, or csv for programs.")
]
Paper = Annotated[
    bool,
    Option("--paper", help="All caches of the paper's eleven datasets, beside published numbers."),
]

_PAPER_ALONE = "--paper takes every cache of the eleven datasets; name none beside it."
_INTERRUPTED = "runs of finished caches were saved: run the same command again to go on."


def compare(
    context: typer.Context,
    caches: opt.CacheNames = None,
    method: opt.Methods = None,
    shots: opt.Shots[str | None] = None,
    seeds: opt.Seeds = "3",
    validation: opt.AnyValidation = "none",
    self_train: opt.SelfTrain = None,
    self_train_rounds: opt.SelfTrainRounds = 1,
    base_to_new: BaseToNew = False,
    paper: Paper = False,
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
    format_: Format = "table",
    device: opt.Device = "auto",
    precision: opt.ProductPrecision = "auto",
    engine: opt.Engine = "local",
    verbose: opt.Verbose = False,
    as_json: opt.Json = False,
) -> None:
    """Compare methods, or encoders, on the same images and seeds. Shot counts make a curve.

    The name of a dataset means each encoder's cache of it: the encoders stand side by side.
    Without --method it takes all of them, without --shots 1, 2, 4, 8 and 16 images per class, as
    far as they reach.

    Example: cafe compare digits/nano.glyphs --method zero-shot,clip-adapter --shots 1,4,16
    """
    names = parse_methods(method)
    arguments: dict[str, Any] = {
        "methods": names,
        "shots": None if shots is None else parse_shots(shots),
        "seeds": parse_seeds(seeds),
        "validation": validation,
        "needs": tower_loader(names or (), encoder, pretrained, device),
    }
    arguments |= {"device": device, "precision": precision, "engine": engine, "runs": runs}
    if paper:
        if base_to_new or caches or dataset or model or meta or pool or self_train:
            raise InputError(_PAPER_ALONE)
        arguments |= {"root": cache, "command": recorded_command(context, [])}
        _compare_paper(arguments, as_json=as_json, verbose=verbose)
        return
    from cafe.study.compare import compare as run

    arguments |= {"base_to_new": base_to_new, "meta": meta}
    arguments |= {"self_train": self_train, "self_train_rounds": self_train_rounds}
    features = open_caches(caches, cache, dataset, model, each=True)
    arguments |= without_none(
        pool=named_beside(pool, cache, encoder_names(*features)),
        class_balance=read_class_balance(class_balance),
        prompts_weighting=prompts_weighting,
        loss=loss,
    )
    arguments["command"] = recorded_command(context, features, arguments.get("pool"))
    with progress_bar("fits", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        comparison = run(features, progress=progress, note=note, **arguments)
    if as_json:
        print_saved_json(comparison.json, comparison.folder)
    elif format_ == "csv":
        print_records_csv(comparison.records)
    else:
        _print(comparison, features, verbose=verbose)


def _print(comparison: Comparison, caches: Sequence[FeatureCache], *, verbose: bool) -> None:
    record, records = comparison.record, [*comparison.records]
    if len(records) > len({part.dataset for part in records}) == 1 and not record.base_to_new:
        print_leaderboard(records, caches)
    else:
        for part in records if len(records) == 1 else [*records, record]:  # and the average
            print_comparison(part)
    if len(records) > 1:
        records.append(record)
    reasons: dict[str, list[str]] = {}
    for method, reason in (record.left_out or {}).items():
        reasons.setdefault(reason, []).append(method)
    for reason, methods in reasons.items():
        say(f"{', '.join(methods)} {verb(len(methods), 'are')} left out: {reason}.")
    print_protocol(record, comparison.records, verbose=verbose)
    for part in records:
        say(f"Saved to {part.folder}")
    say(f"Next: cafe report {record.folder}")


def _compare_paper(arguments: Mapping[str, Any], *, as_json: bool, verbose: bool) -> None:
    """Compare on every cache of the paper's datasets, and print published numbers beside."""
    from cafe.report.reproduction import reproduce

    with progress_bar("fits", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        reproductions = reproduce(progress=progress, **arguments)
    if as_json:
        parts = [reproduction.json() for reproduction in reproductions]
        rows = [{**row, "encoder": r.encoder} for r in reproductions for row in r.rows]
        print_json(parts[0] if len(parts) == 1 else {"results": rows, "encoders": parts})
        return
    for reproduction in reproductions:
        comparison = reproduction.comparison
        for record in comparison.records:
            print_comparison(record)
        print_published(reproduction)
        for text in reproduction.used:
            say(f"used: {text}")
        for text in reproduction.warnings:
            say(f"differs: {text}")
        print_protocol(comparison.record, comparison.records, verbose=verbose)
        say(f"Saved to {comparison.folder}")
