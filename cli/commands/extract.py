"""`cafe extract`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from cafe.errors import InputError, counted

from .. import completion
from .. import options as opt
from ..output import megabytes, note, print_json, say
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.extract.extract import Extraction

Dataset = Annotated[
    str | None,
    Argument(
        metavar="DATASET",
        help="A name of 'cafe datasets', a folder, or a CSV or JSONL manifest.",
        autocompletion=completion.datasets,
    ),
]
DatasetOption = Annotated[
    str | None,
    Option("--dataset", help="The same as an option.", autocompletion=completion.datasets),
]
Model = Annotated[
    str | None,
    Option(
        help="An open_clip architecture, nano, or a folder or JSON file with a configuration "
        "[default: ViT-B-32; nano for digits].",
        autocompletion=completion.models,
    ),
]
Pretrained = Annotated[
    str | None,
    Option(help="A tag of open_clip, a checkpoint file, or none [default: openai, else the only]."),
]
Prompts = Annotated[Path | None, Option(help="JSON file: class name -> list of sentences.")]
Views = Annotated[int, Option(help="Views per training image, the plain one counted.")]
ViewSeed = Annotated[int, Option(help="Seed of the augmented views.")]
Spatial = Annotated[bool, Option("--spatial", help="Store spatial maps too, for vt-clip: large.")]
Pool = Annotated[int | None, Option(help="Largest side of the maps' grid [default: 7].")]
OnError = Annotated[
    Literal["skip", "fail"], Option(help="Skip and record an image that cannot be read, or stop.")
]
AllowMissing = Annotated[
    bool, Option("--allow-missing", help="Go on without files that the split names.")
]
Download = Annotated[bool, Option("--download", help="Fetch the dataset where torchvision can.")]
Rebuild = Annotated[bool, Option("--rebuild", help="Encode anew, and replace what is there.")]
Engine = Annotated[
    Literal["local", "ray"], Option(help="Encode on this machine, or on all of a Ray cluster.")
]

_INTERRUPTED = "finished work is kept: run the same command again to go on."


def extract(
    source: Dataset = None,
    dataset: DatasetOption = None,
    split_file: opt.SplitFile = None,
    data_root: opt.DataRoot = None,
    model: Model = None,
    pretrained: Pretrained = None,
    template: opt.Template = None,
    prompts: Prompts = None,
    views: Views = 1,
    view_seed: ViewSeed = 0,
    spatial: Spatial = False,
    pool: Pool = None,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
    precision: opt.Precision[Literal["auto", "fp32", "bf16", "fp16"]] = "auto",
    batch_size: opt.ForwardBatch = None,
    workers: opt.Workers = None,
    on_error: OnError = "skip",
    allow_missing: AllowMissing = False,
    download: Download = False,
    rebuild: Rebuild = False,
    engine: Engine = "local",
    as_json: opt.Json = False,
) -> None:
    """Encode a dataset once with a frozen CLIP and store the features.

    Example: cafe extract eurosat --data-root ~/data --model ViT-B-32
    """
    from cafe.extract.extractor import Extractor

    extractor = Extractor(
        model,
        pretrained,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
    )
    with progress_bar("images", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        extractor.extract(
            _one_of(source, dataset),
            split_file=split_file,
            data_root=data_root,
            template=template,
            prompts=prompts,
            views=views,
            view_seed=view_seed,
            spatial=_largest_side(spatial, pool),
            cache=cache,
            on_error=on_error,
            allow_missing=allow_missing,
            download=download,
            rebuild=rebuild,
            progress=progress,
            note=note,
        )
    _print(extractor.extraction_, as_json=as_json)


def _one_of(source: str | None, dataset: str | None) -> str:
    if (source is None) == (dataset is None):
        raise InputError("name one dataset, as in 'cafe extract ./photos' or 'cafe extract dtd'.")
    return str(source or dataset)


def _largest_side(spatial: bool, pool: int | None) -> int | None:
    """Side of the spatial maps to store; None where none are."""
    from cafe.encoders.spatial import POOL

    if pool is not None and not spatial:
        raise InputError("--pool is of spatial maps; add --spatial.")
    return (POOL if pool is None else pool) if spatial else None


def _print(extraction: Extraction, *, as_json: bool) -> None:
    from cafe.store.paths import cache_name

    path, images = extraction.path, extraction.images
    if as_json:
        print_json({**vars(extraction), "path": str(path)})
        return
    if extraction.was_there:
        say(f"{path} is there already, made from the same data in the same way.")
        if not extraction.by_content:
            note(
                "the data were compared by names and sizes alone, as the cache of an older cafe "
                "knows no more; --rebuild makes one that knows their content."
            )
        return
    rate, done = images / extraction.seconds, counted(images, "image")
    say(f"{path}: {done} in {extraction.seconds:.1f} s ({rate:,.0f} images/s), {megabytes(path)}.")
    if extraction.skipped:
        note(
            f"{counted(extraction.skipped, 'image')} could not be read; 'cafe cache show "
            f"{cache_name(path)}' lists them with the reason."
        )
    say(f"Next: cafe fit {cache_name(path)}")
