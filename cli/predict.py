"""`cafe predict`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.errors import CafeError

from .options import (
    CacheHome,
    Device,
    HeadMethod,
    HeadSeed,
    HeadShots,
    RunName,
    parse_head_selector,
    say,
)
from .progress import interruptible, progress_bar

if TYPE_CHECKING:
    from cafe.inference.prediction import ClassScore, Prediction
    from cafe.results.saved_head import SavedHead


class Format(str, Enum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


def predict(
    run: RunName,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE|FOLDER", help="Images, and folders of images."),
    ],
    top: Annotated[int, typer.Option(help="How many of the likeliest classes to give.")] = 3,
    format_: Annotated[
        Format, typer.Option("--format", help="A table for people, or csv or jsonl for programs.")
    ] = Format.table,
    unknown_below: Annotated[
        float,
        typer.Option(
            metavar="P", help="Give no label where the best class is less probable than this."
        ),
    ] = 0.0,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Add zero-shot CLIP's answer and the nearest training images."
        ),
    ] = False,
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
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that decode.")] = None,
) -> None:
    """Say what is on new images, and how sure that is, with a head that 'cafe fit' saved.

    RUN is the folder of a run, a folder of runs (the newest counts), or a head's file.

    Example: cafe predict runs photo.jpg ./photos --top 3
    """
    from cafe.encoders.preprocess import quiet_pillow
    from cafe.encoders.recorded import load_recorded_encoder
    from cafe.inference.images import list_images
    from cafe.inference.predictor import Predictor, record_of_head
    from cafe.results.runs import find_head
    from cafe.results.saved_head import load_head

    file = find_head(run, parse_head_selector(method, shots, seed))
    saved = load_head(file)
    sources = list_images(images)
    _caveat(saved)
    piped = format_ is not Format.table and not sys.stdout.isatty()
    with interruptible("what is printed is complete; the rest was not looked at."):
        encoder = load_recorded_encoder(record_of_head(saved), model, pretrained, device=device)
        neighbours = _evidence(saved, file, cache) if explain else None
        predictor = Predictor(saved, encoder, neighbours)
        with progress_bar("images", quiet=not piped) as progress, quiet_pillow():
            found = predictor.predict(
                sources,
                top=top,
                unknown_below=unknown_below,
                explain=explain,
                batch_size=batch_size,
                workers=workers,
                progress=progress,
            )
            _print(found, _WRITERS[format_](saved, top), len(sources))


def _caveat(saved: SavedHead) -> None:
    if saved.temperature is None:
        say(
            "probabilities are not calibrated: this head had no validation images, and no class "
            "had two shots to hold one out."
            if saved.about.get("calibration")
            else "probabilities are not calibrated: this head was saved without a temperature."
        )


def _evidence(saved: SavedHead, file: Path, home: Path | None) -> Any:
    from cafe.inference.neighbours import NeighbourIndex, find_cache

    try:
        return NeighbourIndex(saved, find_cache(saved, file, home))
    except CafeError as error:
        say(f"no nearest training images: {error}")
        return None


def _print(found: Any, write: Callable[[Prediction], None], total: int) -> None:
    """Print predictions as they come; tell on stderr of images that cannot be read."""
    skipped = 0
    for prediction in found:
        if prediction.reason:
            skipped += 1
            say(f"skipped {prediction.image}: {prediction.reason}")
        else:
            write(prediction)
            sys.stdout.flush()
    if skipped == total:
        raise CafeError(
            f"none of {total} images could be read; the reasons are above."
            if total > 1
            else "the image could not be read; the reason is above."
        )
    if skipped:
        say(f"{skipped} of {total} images could not be read.")


def _jsonl(_saved: SavedHead, _top: int) -> Callable[[Prediction], None]:
    return lambda found: typer.echo(json.dumps(found.json(), ensure_ascii=False))


def _csv(saved: SavedHead, top: int) -> Callable[[Prediction], None]:
    """Image, label and probability, then the runners-up, then the explanations."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    count = min(top, len(saved.class_names))
    words = ["label", "probability", *(["score"] if saved.has_scores else [])]
    others = [f"{word}_{n}" for n in range(2, count + 1) for word in words]
    head = ["image", *words, *others]
    written = False

    def write(found: Prediction) -> None:
        nonlocal written
        more = {} if found.zero_shot is None else {"zero_shot": found.zero_shot.label}
        if found.nearest:
            more["nearest"] = found.nearest[0].image
        if not written:
            writer.writerow([*head, *more])
            written = True
        best, *rest = (tuple(guess.json().values()) for guess in found.top)
        runners = [value for guess in rest for value in guess]
        writer.writerow([found.image, found.label or "", *best[1:], *runners, *more.values()])

    return write


_WIDEST = 32  # of a class name in the table


def _table(saved: SavedHead, top: int) -> Callable[[Prediction], None]:
    """Lines whose columns are as wide as the class names, so that none waits for the others."""
    from rich.cells import cell_len, set_cell_size

    names = [*saved.class_names, "unknown"]
    wide = min(max(cell_len(name) for name in names), _WIDEST)
    count = min(top, len(saved.class_names))

    def cell(label: str, guess: ClassScore) -> str:
        alone = "" if guess.score is None else f" {100 * guess.score:6.1f} % alone"
        return f"{set_cell_size(label, wide)} {100 * guess.probability:5.1f} %{alone}"

    full = wide + (23 if saved.has_scores else 8)
    headers = [set_cell_size("label", full), *[set_cell_size("or", full)] * (count - 1)]
    waiting = ["  ".join([*headers, "image"])]  # until something is read

    def write(found: Prediction) -> None:
        while waiting:
            typer.echo(waiting.pop())
        best, *others = found.top
        if found.label is None:
            others = [best, *others][: count - 1]
        cells = [cell(found.label or "unknown", best), *[cell(one.label, one) for one in others]]
        typer.echo("  ".join([*cells, found.image]))
        if found.zero_shot is not None:
            typer.echo(f"    zero-shot: {_brief(found.zero_shot)}")
        for near in found.nearest:
            typer.echo(f"    near to {near.image}, {near.label}, cosine {near.cosine:.3f}")

    return write


def _brief(guess: ClassScore) -> str:
    alone = "" if guess.score is None else f" ({100 * guess.score:.1f} % alone)"
    return f"{guess.label} {100 * guess.probability:.1f} %{alone}"


_WRITERS = {Format.table: _table, Format.csv: _csv, Format.jsonl: _jsonl}
