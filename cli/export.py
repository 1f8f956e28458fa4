"""`cafe export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cafe.errors import InputError

from .options import CacheHome, HeadMethod, HeadSeed, HeadShots, RunName, parse_head_selector


class Format(str, Enum):
    """What is written."""

    safetensors = "safetensors"
    onnx = "onnx"
    torch = "torch"


def export(
    run: RunName,
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="cafe's own file of a head, an ONNX graph, or an archive of torch.export.",
        ),
    ] = Format.safetensors,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file [default: DATASET.METHOD.SUFFIX]."
        ),
    ] = None,
    with_encoder: Annotated[
        bool,
        typer.Option("--with-encoder", help="Encoder and head as one graph from 8-bit pixels on."),
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Images or folders to compare on; may be given several times."),
    ] = None,
    method: HeadMethod = None,
    shots: HeadShots = None,
    seed: HeadSeed = None,
    model: Annotated[
        str | None,
        typer.Option(help="The run's encoder, where it is a folder or a JSON file of yours."),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Its weights, where they are a checkpoint file of yours.")
    ] = None,
    cache: CacheHome = None,
) -> None:
    """Write a saved head for use elsewhere, compared with the original, and a model card beside it.

    RUN is the folder of a run, a folder of runs (the newest counts), or a head's file.

    Example: cafe export runs --format onnx -o digits.onnx
    """
    from cafe.inference.export import export_head

    if images and not with_encoder:
        raise InputError("--images compares graphs from pixels on; add --with-encoder.")
    selector = parse_head_selector(method, shots, seed)
    made = export_head(
        run,
        format_.value,
        output=output,
        with_encoder=with_encoder,
        images=images or None,
        model=model,
        pretrained=pretrained,
        cache=cache,
        **selector._asdict(),
    )
    size = made.path.stat().st_size / 1e6
    typer.echo(
        f"{made.path}: {size:.1f} MB; probabilities differ from the original's by "
        f"{made.difference:.1e} at most, on {made.checked}.\n{made.card} says how to load it."
    )
