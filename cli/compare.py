"""`cafe compare`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.errors import InputError

from .fit import ValidationProtocol
from .needs import EncoderFolder, EncoderWeights, needs_of
from .options import (
    CacheHome,
    DatasetFilter,
    Device,
    Json,
    MetaWeights,
    ModelFilter,
    RunsHome,
    open_cache,
    parse_seeds,
    parse_shots,
    say,
)
from .progress import interruptible, progress_bar

if TYPE_CHECKING:
    from cafe.report.reproduction import Reproduction
    from cafe.study.compare import Comparison


def compare(
    caches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CACHE]...",
            help="Cache files, or names such as digits/nano.glyphs [default: the newest].",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names of 'cafe methods', with commas between [default: all of them]."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Training images per class [default: 1,2,4,8,16 as far as they reach]."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, or a list such as 0,5,7.")] = "3",
    validation: Annotated[
        ValidationProtocol, typer.Option(help="What hyper-parameters are chosen on.")
    ] = ValidationProtocol.none,
    base_to_new: Annotated[
        bool,
        typer.Option(
            "--base-to-new", help="Fit on the first half of the classes, test on both halves."
        ),
    ] = False,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="All caches of the paper's eleven datasets, beside published numbers."
        ),
    ] = False,
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
    """Compare methods over shot counts on the same images and seeds of one or several caches.

    Example: cafe compare digits/nano.glyphs --methods zero-shot,clip-adapter --shots 1,4,16
    """
    words: dict[str, Any] = {
        "methods": _names(methods),
        "shots": None if shots is None else parse_shots(shots),
        "seeds": parse_seeds(seeds),
        "validation": validation.value,
        "device": device,
        "runs": runs,
        "command": shlex.join(["cafe", *sys.argv[1:]]),
    }
    words["needs"] = needs_of(words["methods"] or (), encoder, pretrained, device)
    if paper and (base_to_new or caches or dataset or model or meta):
        raise InputError("--paper takes every cache of the eleven datasets; name none beside it.")
    with (
        interruptible("runs of finished caches were saved."),
        progress_bar("fits", quiet=as_json) as progress,
    ):
        if paper:
            from cafe.report.reproduction import reproduce

            _show_paper(reproduce(home=cache, progress=progress, **words), as_json=as_json)
            return
        from cafe.study.compare import compare as run

        names: list[str | None] = [*caches] if caches else [None]
        sources = [open_cache(name, cache, dataset, model) for name in names]
        found = run(sources, base_to_new=base_to_new, meta=meta, progress=progress, **words)
    _show(found, as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError("--methods names no method; 'cafe methods' lists them.")
    return names


def _show(found: Comparison, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.json))
        say(f"saved to {found.folder}")
        return
    from .compared import print_comparison

    for record in found.records:
        print_comparison(record.json)
    if len(found.records) > 1:
        print_comparison(found.json)
    for method, reason in found.json.get("left_out", {}).items():
        typer.echo(f"{method} is left out: {reason}.")
    typer.echo(f"\n{found.json['protocol']['words']}")
    for record in found.records:
        typer.echo(f"Saved to {record.folder}")
    if len(found.records) > 1:
        typer.echo(f"Saved to {found.folder}")
    typer.echo(f"Next: cafe report {found.folder}")


def _show_paper(found: list[Reproduction], *, as_json: bool) -> None:
    if as_json:
        parts = [one.json() for one in found]
        rows = [{**row, "encoder": one.encoder} for one in found for row in one.rows]
        typer.echo(
            json.dumps(parts[0] if len(parts) == 1 else {"results": rows, "encoders": parts})
        )
        return
    from .compared import print_comparison, print_published

    for one in found:
        for record in one.comparison.records:
            print_comparison(record.json, plot=False)
        print_published(one)
        for text in one.used:
            typer.echo(f"used: {text}")
        for text in one.warnings:
            typer.echo(f"differs: {text}")
        typer.echo(f"\n{one.comparison.json['protocol']['words']}")
        typer.echo(f"Saved to {one.comparison.folder}")
