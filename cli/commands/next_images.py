"""`cafe next`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from cafe.errors import InputError, counted

from .. import options as opt
from ..caches import open_cache
from ..image_arguments import expand_images
from ..output import note, print_json, print_table
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.curation.suggestions import Suggestion
    from cafe.curation.unlabelled import Unlabelled
    from cafe.store import FeatureCache

Images = Annotated[
    list[str] | None,
    Argument(
        metavar="[IMAGE]...",
        help="Images without a label: files, folders, globs, URLs, or - for paths on stdin "
        "[default: the images whose class is called 'unlabelled'].",
    ),
]
Folder = Annotated[
    str | None,
    Option(
        "--unlabelled",
        metavar="FOLDER",
        help="Images without a label, as 'cafe serve' takes them; the same as IMAGE.",
    ),
]
PoolCache = Annotated[
    str | None,
    Option("--pool", metavar="CACHE", help="Choose from another cache, whatever labels it has."),
]
Budget = Annotated[int, Option(help="How many images to choose.")]
StrategyName = Annotated[
    Literal["auto", "balanced", "margin", "entropy", "typiclust", "coreset", "random"],
    Option(help="How to choose; auto is what measured best: margin."),
]
Seed = Annotated[int, Option(help="Seed of clustering, and of random.")]
Sheet = Annotated[
    Path | None, Option(metavar="FILE", help="Write the pictures too, as one HTML page.")
]
ImageFolder = Annotated[
    Path | None,
    Option("--images", help="Folder that a cache's images lie in, for the pictures of --sheet."),
]


def next_(
    cache_argument: opt.RequiredCache,
    images: Images = None,
    unlabelled: Folder = None,
    budget: Budget = 20,
    strategy: StrategyName = "auto",
    pool: PoolCache = None,
    seed: Seed = 0,
    output: opt.Output[Path | None] = None,
    sheet: Sheet = None,
    folder: ImageFolder = None,
    cache: opt.CacheHome = None,
    model: opt.LocalModel = None,
    pretrained: opt.LocalWeights = None,
    device: opt.Device = "auto",
    batch_size: opt.ForwardBatch = None,
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> None:
    """Say which images to label next. A head would learn most from them.

    -o FILE.csv is a table to fill in: correct the column 'proposed', which has the head's answer.

    Example: cafe next photos ./new-photos --budget 20 -o next.csv --sheet next.html
    """
    from cafe.curation.suggestions import write_suggestions
    from cafe.curation.unlabelled import (
        all_images,
        known_labels,
        leave_out_known,
        suggest_labels,
        without_label,
    )
    from cafe.results.run_folders import check_output

    if budget < 1:
        raise InputError(f"--budget must be at least 1; got {budget}.")
    images = [*(images or ()), *([unlabelled] if unlabelled is not None else ())]
    if images and pool:
        raise InputError("images and --pool are two places to choose from; give one.")
    for file, suffix in ((output, ".csv"), (sheet, ".html")):
        if file is not None:
            check_output(file, suffix)
    features = open_cache(cache_argument, cache)
    known = known_labels(features)
    if pool:
        found = all_images(features, open_cache(pool, cache))
    elif images:
        found = _encode(features, images, model, pretrained, device, batch_size, workers)
    else:
        found = without_label(features)
    new = leave_out_known(found, known)
    _note_known(len(found.ids) - len(new.ids), features.noun)
    rows = suggest_labels(new, known, budget, strategy=strategy, seed=seed)
    if output is not None:
        write_suggestions(output, rows)
        note(f"wrote {output}: correct the column 'proposed'.")
    if sheet is not None:
        source = open_cache(pool, cache) if pool else features
        _write_sheet(sheet, rows, source, folder, are_files=bool(images))
    _print(rows, features.noun, as_json=as_json)


def _encode(
    features: FeatureCache,
    images: list[str],
    model: str | None,
    pretrained: str | None,
    device: str,
    batch_size: int | None,
    workers: int | None,
) -> Unlabelled:
    from cafe.curation.unlabelled import encoded_images
    from cafe.encoders.preprocess import quiet_pillow
    from cafe.encoders.recorded import load_recorded_encoder, record_of_cache
    from cafe.extract.encode import LoaderOptions
    from cafe.extract.image_sources import list_images

    sources = list_images(expand_images(images), note)
    with progress_bar("images", interrupted="nothing was chosen.") as progress, quiet_pillow():
        encoder = load_recorded_encoder(record_of_cache(features), model, pretrained, device=device)
        options = LoaderOptions(batch_size, workers, progress)
        found, unread = encoded_images(features, encoder, sources, options)
    note(*(f"skipped {line}" for line in unread))
    return found


def _note_known(count: int, noun: str) -> None:
    if count:
        note(f"{counted(count, noun)} left out: labelled in the cache already.")


def _write_sheet(
    sheet: Path,
    rows: list[Suggestion],
    features: FeatureCache,
    folder: Path | None,
    *,
    are_files: bool,
) -> None:
    from cafe.curation.contact_sheet import write_contact_sheet

    named = [row.id for row in rows] if are_files else []
    dataset = features.header.dataset
    found = write_contact_sheet(
        sheet, rows, folder=folder, dataset=dataset, files=named, cache=features
    )
    lacking = len(rows) - found
    hint = "" if are_files or not lacking else "; --images says where they lie"
    without = f" {counted(lacking, features.noun)} without a picture{hint}." if lacking else ""
    note(f"wrote {sheet}.{without}")


def _print(rows: list[Suggestion], noun: str, *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(row) for row in rows], readable=True)
        return
    print_table(
        ["", noun, "the head says", "confidence"],
        [
            [str(place), row.id, row.proposed or "-", f"{100 * row.confidence:.1f} %"]
            for place, row in enumerate(rows, 1)
        ],
        numbers=(0, 3),
    )
