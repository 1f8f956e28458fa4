"""`cafe predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from cafe.errors import CafeError, InputError, counted

from .. import boxes as box
from .. import options as opt
from ..adaptation import AdaptName, State, open_adaptation
from ..boxes import BoxFiles, predict_boxes
from ..caches import named_beside
from ..heads import note_calibration, note_choice
from ..image_arguments import named_images
from ..output import note, print_json
from ..parsing import parse_head_selector
from ..prediction_formats import FORMATS, Write
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.inference.neighbours import NeighbourIndex
    from cafe.inference.prediction import Prediction
    from cafe.results.saved_head import SavedHead

Images = Annotated[
    list[str],
    Argument(
        metavar="IMAGE",
        help="Images, folders of images, globs such as '**/*.jpg', http and https URLs; - reads "
        "paths from stdin, one a line. Or a cache, whose features are taken as they are.",
    ),
]
Top = Annotated[int, Option(help="How many of the likeliest classes to give.")]
Format = Annotated[
    Literal["table", "csv", "jsonl"],
    Option("--format", help="A table for people, or csv or jsonl for programs."),
]
UnknownBelow = Annotated[
    float,
    Option(metavar="P", help="Give no label where the best class is less probable than this."),
]
Explain = Annotated[
    bool, Option("--explain", help="Add zero-shot CLIP's answer and the nearest training images.")
]
Pool = Annotated[
    str | None,
    Option(
        "--pool",
        metavar="self|test|CACHE|none",
        help="Images without labels to adapt to first: self is the very images that are asked.",
    ),
]

Split = Annotated[
    Literal["train", "val", "test"] | None,
    Option(help="Of a cache in the place of images: which split is asked about [default: test]."),
]

_INTERRUPTED = "what is printed is complete; the rest was not looked at."


def predict(
    run: opt.RunName,
    images: Images,
    top: Top = 3,
    format_: Format = "table",
    unknown_below: UnknownBelow = 0.0,
    explain: Explain = False,
    adapt: AdaptName = "none",
    state: State = None,
    pool: Pool = None,
    split: Split = None,
    boxes: box.Boxes = None,
    truth: box.Truth = None,
    output: box.Detections = None,
    draw: box.Draw = None,
    nms: box.Nms = None,
    min_score: box.MinScore = 0.05,
    max_per_image: box.MaxPerImage = 100,
    overlap: box.Overlap = None,
    allow_missing: opt.AllowMissing = False,
    method: opt.HeadMethod = None,
    shots: opt.HeadShots = None,
    seed: opt.HeadSeed = None,
    model: opt.LocalModel = None,
    pretrained: opt.LocalWeights = None,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
    batch_size: opt.ForwardBatch = None,
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> None:
    """Say what is on new images, and how sure that is.

    RUN is a model of 'cafe train', a run, a folder of runs (the newest counts), or a head's file.

    With --boxes FILE, IMAGE is the folder of the images, and what is written are detections.

    Example: cafe predict model photo.jpg ./photos --top 3
    """
    from cafe.encoders.preprocess import quiet_pillow
    from cafe.inference.adapt_to_pool import Shots
    from cafe.inference.head_encoders import load_encoders
    from cafe.inference.predictor import Predictor
    from cafe.results.runs import choose_head
    from cafe.results.saved_head import load_head

    chosen = choose_head(run, parse_head_selector(method, shots, seed))
    file, saved = chosen.file, load_head(chosen.file)
    _check_format(format_, as_json=as_json)
    if boxes is not None:
        given = {"--adapt": adapt != "none", "--state": state, "--split": split, "--pool": pool}
        _refuse_beside_boxes({**given, "--explain": explain, "--format": format_ != "table"})
    adaptation = open_adaptation(saved, adapt, file, cache, state)
    is_of_several = "encoders" in saved.about["cache_key"]
    unlabelled = named_beside(pool, cache, None if is_of_several else saved.about["encoder"])
    shots_of_head = None if pool in (None, "none") else Shots.find(saved, file, cache)
    note_choice(chosen)
    note_calibration(saved)
    encoder = partial(load_encoders, saved, model, pretrained, device=device)
    if boxes is not None:
        files = BoxFiles(boxes, truth, output or Path("detections.json"), draw, allow_missing)
        which = (overlap, min_score, nms, max_per_image)
        predict_boxes(saved, encoder, images, files, which, (batch_size, workers), as_json=as_json)
        return
    _refuse_without_boxes({"--truth": truth, "--output": output, "--draw": draw, "--nms": nms})
    sources = named_images(images, split, cache, note)
    # a bar would tear a table on a terminal apart
    piped = (as_json or format_ != "table") and not sys.stdout.isatty()
    how: dict[str, Any] = {"top": top, "unknown_below": unknown_below, "explain": explain}
    how |= {"batch_size": batch_size, "workers": workers, "pool": unlabelled, "note": note}
    with (
        progress_bar("images", interrupted=_INTERRUPTED, quiet=not piped) as progress,
        quiet_pillow(),
    ):
        neighbours = _find_neighbours(saved, file, cache) if explain else None
        tower = encoder() if isinstance(sources, list) else ()
        predictor = Predictor(saved, tower, neighbours, adaptation, shots_of_head)
        predictions = predictor.predict(sources, progress=progress, **how)
        write = None if as_json else FORMATS[format_](saved, top)
        _print_all(predictions, write, len(sources))


def _refuse_without_boxes(given: Mapping[str, Any]) -> None:
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} is for boxes; give them with --boxes FILE.")


def _refuse_beside_boxes(given: Mapping[str, Any]) -> None:
    for option, value in given.items():
        if value not in (None, False, "none"):
            raise InputError(f"{option} is for images, not for --boxes; leave one of them out.")


def _check_format(format_: str, *, as_json: bool) -> None:
    if as_json and format_ != "table":
        raise InputError(f"--json and --format {format_} are two formats; give one.")


def _print_all(predictions: Iterable[Prediction], write: Write | None, total: int) -> None:
    """Print predictions as they come; without a format all as one list of JSON, with the images
    that cannot be read.
    """
    if write is not None:
        _print(predictions, write, total)
        return
    rows = list[dict[str, Any]]()

    def kept() -> Iterator[Prediction]:
        for prediction in predictions:
            rows.append(prediction.json())
            yield prediction

    _print(kept(), lambda _: None, total)
    print_json(rows, readable=True)


def _find_neighbours(saved: SavedHead, file: Path, root: Path | None) -> NeighbourIndex | None:
    from cafe.inference.neighbours import NeighbourIndex, find_cache

    try:
        return NeighbourIndex.of_head(saved, find_cache(saved, file, root))
    except CafeError as error:
        note(f"no nearest training images: {error}")
        return None


def _print(predictions: Iterable[Prediction], write: Write, total: int) -> None:
    """Print predictions as they come; note on stderr the images that cannot be read."""
    skipped = 0
    for prediction in predictions:
        if prediction.reason and total == 1:
            raise CafeError(f"{prediction.image}: {prediction.reason}.")
        if prediction.reason:
            skipped += 1
            note(f"skipped {prediction.image}: {prediction.reason}")
        else:
            write(prediction)
            sys.stdout.flush()
    if skipped == total:
        raise CafeError(f"none of {total} images could be read; the reasons are above.")
    if skipped:
        note(f"{skipped} of {counted(total, 'image')} could not be read.")
