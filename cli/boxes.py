"""`cafe predict --boxes`: detections on stdout's side of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Option

from cafe.errors import CafeError, InputError, counted

from .output import note, print_json, print_table, say
from .progress import progress_bar

if TYPE_CHECKING:
    from cafe.detection.average_precision import AveragePrecision
    from cafe.detection.coco_file import Detected
    from cafe.encoders.encoder import Encoder
    from cafe.results.saved_head import SavedHead

Boxes = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Predict these boxes instead, on images of the one folder IMAGE: COCO, Pascal VOC, "
        "CSV or YOLO. -o gets the detections.",
    ),
]
Truth = Annotated[
    Path | None,
    Option(metavar="FILE", help="Labelled boxes, to score the detections of --boxes: AP, AP50."),
]
Detections = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Of --boxes: COCO results to write [default: detections.json].",
    ),
]
Draw = Annotated[
    Path | None,
    Option(metavar="DIR", help="Of --boxes: folder for the images with boxes and labels."),
]
Nms = Annotated[
    float | None,
    Option(metavar="IOU", help="Of --boxes: drop boxes that overlap a better one of their class."),
]
MinScore = Annotated[float, Option(metavar="P", help="Of --boxes: leave out less probable ones.")]
MaxPerImage = Annotated[int, Option(help="Of --boxes: detections of an image at most.")]
Overlap = Annotated[
    bool | None,
    Option(
        "--overlap/--no-overlap",
        help="Of --boxes: classes may overlap. Each is scored alone by a sigmoid, and a box may be "
        "several detections [default: as the head was fitted, see --loss].",
    ),
]


class BoxFiles(NamedTuple):
    """What --boxes reads and writes."""

    boxes: Path
    truth: Path | None
    output: Path
    draw: Path | None
    allow_missing: bool


def predict_boxes(
    saved: SavedHead,
    load_encoder: Callable[[], Encoder | tuple[Encoder, ...]],
    images: Sequence[str],
    files: BoxFiles,
    which: tuple[bool | None, float, float | None, int],
    forward: tuple[int | None, int | None],
    *,
    as_json: bool,
) -> None:
    """Write detections, and print how many and how good they are."""
    from cafe.detection.box_task import load_task
    from cafe.detection.coco_file import detect_file
    from cafe.detection.detections import DetectOptions
    from cafe.encoders.preprocess import quiet_pillow
    from cafe.extract.encode import LoaderOptions
    from cafe.inference.predictor import Predictor

    if len(images) != 1:
        raise InputError(f"--boxes needs one folder of images; got {len(images)} names.")
    options, root = DetectOptions(*which), Path(images[0])
    missing = files.allow_missing
    task = load_task(files.boxes, root, files.truth, allow_missing=missing, note=note)
    kept = f"{files.output} is as it was; run the same command again."
    with progress_bar("boxes", interrupted=kept, quiet=as_json) as progress, quiet_pillow():
        done = detect_file(
            Predictor(saved, load_encoder()),
            task,
            files.output,
            options=options,
            loader=LoaderOptions(*forward, progress),
            draw=files.draw,
            note=note,
        )
    for image, reason in done.skipped.items():
        note(f"skipped {image}: {reason}")
    if done.skipped and len(done.skipped) == done.images:
        raise CafeError(f"none of {counted(done.images, 'image')} could be read.")
    if as_json:
        print_json({**done.json, "output": str(files.output)})
    else:
        _print(done, files)


def _print(done: Detected, files: BoxFiles) -> None:
    found = f"{counted(done.detections, 'detection')} of {counted(done.boxes, 'box')}"
    say(f"{files.output}: {found} on {counted(done.images, 'image')}")
    if files.draw is not None:
        say(f"{files.draw}: {counted(done.drawings, 'image')} with boxes and labels")
    if done.ap is not None:
        _print_precision(done.ap)


def _print_precision(ap: AveragePrecision) -> None:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    say(f"average precision on {counted(ap.images, 'image')} with {counted(ap.boxes, 'true box')}")
    rows = [[name, *map(cell, pair)] for name, pair in ap.per_class.items()]
    print_table(
        ["", "AP %", "AP50 %"], [["all", cell(ap.ap), cell(ap.ap50)], *rows], numbers=(1, 2)
    )
