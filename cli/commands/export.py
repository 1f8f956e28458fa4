"""`cafe export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from cafe.errors import InputError

from .. import options as opt
from ..heads import note_choice
from ..output import megabytes, say
from ..parsing import parse_head_selector
from ..signals import WHOLE, on_stop

Format = Annotated[
    Literal["safetensors", "onnx", "torch"] | None,
    Option(
        "--format",
        help="cafe's own file of a head, an ONNX graph, or an archive of torch.export [default: by "
        "the suffix of --output (.onnx, .pt2), else safetensors].",
    ),
]
WithEncoder = Annotated[
    bool, Option("--with-encoder", help="Encoder and head as one graph from 8-bit pixels on.")
]
ComparedImages = Annotated[
    list[Path] | None,
    Option("--images", help="Images or folders to compare on; may be given several times."),
]


def export(
    run: opt.RunName,
    format_: Format = None,
    output: opt.Output[Path | None] = None,
    with_encoder: WithEncoder = False,
    images: ComparedImages = None,
    method: opt.HeadMethod = None,
    shots: opt.HeadShots = None,
    seed: opt.HeadSeed = None,
    model: opt.LocalModel = None,
    pretrained: opt.LocalWeights = None,
    cache: opt.CacheHome = None,
) -> None:
    """Write a saved head for use elsewhere, with a model card. It is compared with the original.

    RUN is the folder of a run, a folder of runs (the newest counts), or a head's file. Without
    --output the file is DATASET.METHOD.SUFFIX.

    Example: cafe export runs -o digits.onnx
    """
    from cafe.inference.export import export_head
    from cafe.results.runs import choose_head

    if images and not with_encoder:
        raise InputError("--images compares graphs from pixels on; add --with-encoder.")
    selector = parse_head_selector(method, shots, seed)
    note_choice(choose_head(run, selector))
    with on_stop(WHOLE):
        exported = export_head(
            run,
            format_,
            output=output,
            with_encoder=with_encoder,
            images=images or None,
            model=model,
            pretrained=pretrained,
            cache=cache,
            **selector._asdict(),
        )
    size = megabytes(exported.path)
    say(
        f"{exported.path}: {size}; probabilities differ from the original's by "
        f"{exported.difference:.1e} at most, on {exported.checked}.",
        f"{exported.card} says how to load it.",
    )
