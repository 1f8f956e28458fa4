"""`cafe extract`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from cafe.errors import InputError, counted

from .. import completion
from .. import options as opt
from ..output import megabytes, note, print_json, say
from ..parsing import parse_context, parse_models
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.extract.extract import Extraction
    from cafe.extract.extractor import Extractor

Dataset = Annotated[
    str | None,
    Argument(
        metavar="DATASET",
        help="A name of 'cafe datasets', a folder, a CSV, JSONL or Parquet table, tar shards "
        "(quoted: 'shards/{000..009}.tar'), or hf:NAME[:CONFIG] of the Hugging Face Hub.",
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
        help="An open_clip architecture, nano, or a folder or JSON file with a configuration; "
        "several with commas between [default: ViT-B-32; nano for digits].",
        autocompletion=completion.models,
    ),
]
Views = Annotated[int, Option(help="Views per training image, the plain one counted.")]
ViewSeed = Annotated[int, Option(help="Seed of the augmented views.")]
ViewSplits = Annotated[
    str, Option(help="Splits whose images have these views, with commas between.")
]
Spatial = Annotated[bool, Option("--spatial", help="Store spatial maps too, for vt-clip: large.")]
PreProjection = Annotated[
    bool,
    Option("--pre-projection", help="Store features before the last projection too, for prolip."),
]
Pool = Annotated[int | None, Option(help="Largest side of the maps' grid [default: 7].")]

_INTERRUPTED = "finished work is kept: run the same command again to go on."


def extract(
    source: Dataset = None,
    dataset: DatasetOption = None,
    split_file: opt.SplitFile = None,
    data_root: opt.DataRoot = None,
    model: Model = None,
    pretrained: opt.EncoderWeights = None,
    template: opt.Template = None,
    prompts: opt.Prompts = None,
    class_names: opt.ClassNames = None,
    name: opt.Name = None,
    boxes: opt.Boxes = None,
    context: opt.Context = None,
    proposals: opt.Proposals = None,
    background: opt.Background = None,
    views: Views = 1,
    view_seed: ViewSeed = 0,
    view_splits: ViewSplits = "train",
    spatial: Spatial = False,
    pool: Pool = None,
    pre_projection: PreProjection = False,
    cache: opt.CacheHome = None,
    device: opt.Device = "auto",
    precision: opt.Precision[Literal["auto", "fp32", "bf16", "fp16"]] = "auto",
    decode: opt.Decode = "auto",
    batch_size: opt.ForwardBatch = None,
    workers: opt.Workers = None,
    on_error: opt.OnError = "skip",
    allow_missing: opt.AllowMissing = False,
    download: opt.Download = False,
    rebuild: opt.Rebuild = False,
    engine: opt.Engine = "local",
    as_json: opt.Json = False,
) -> None:
    """Encode a dataset once, by a frozen CLIP, into a cache.

    Example: cafe extract eurosat --data-root ~/data --model ViT-B-32
    """
    how = {"device": device, "precision": precision, "decode": decode, "engine": engine}
    sizes = {"batch_size": batch_size, "workers": workers}
    first, *others = _extractors(model, pretrained, **how, **sizes)
    with progress_bar("images", interrupted=_INTERRUPTED, quiet=as_json) as progress:
        first.extract(
            _one_of(source, dataset),
            split_file=split_file,
            data_root=data_root,
            boxes=boxes,
            proposals=proposals,
            background=background,
            template=template,
            prompts=prompts,
            class_names=class_names,
            name=name,
            context=parse_context(context),
            views=views,
            view_seed=view_seed,
            view_splits=[word.strip() for word in view_splits.split(",")],
            spatial=_largest_side(spatial, pool),
            pre_projection=pre_projection,
            cache=cache,
            on_error=on_error,
            allow_missing=allow_missing,
            download=download,
            rebuild=rebuild,
            also=others,
            progress=progress,
            note=note,
        )
    _print([extractor.extraction_ for extractor in (first, *others)], as_json=as_json)


def _extractors(model: str | None, pretrained: str | None, **options: Any) -> list[Extractor]:
    """One for each model that is named, with weights for all or for each."""
    from cafe.extract.extractor import Extractor

    models: list[str | None] = (
        [model] if model is None or Path(model).exists() else [*parse_models(model)]
    )
    weights: list[str | None] = [pretrained] * len(models)
    if pretrained is not None and len(models) > 1 and "," in pretrained:
        weights = [word.strip() for word in pretrained.split(",")]
    if len(weights) != len(models):
        raise InputError(
            f"--model names {len(models)} encoders and --pretrained {len(weights)} weights; name "
            "one for each, or leave --pretrained out."
        )
    pairs = zip(models, weights, strict=True)
    return [Extractor(name, weight, **options) for name, weight in pairs]


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


def _print(extractions: Sequence[Extraction], *, as_json: bool) -> None:
    from cafe.datasets.dataset import are_unlabelled
    from cafe.store import FeatureCache
    from cafe.store.paths import cache_name

    if as_json:
        rows = [
            {**vars(one), "path": str(one.path), "changes": vars(one.changes)}
            for one in extractions
        ]
        print_json(rows[0] if len(rows) == 1 else {"extractions": rows})
        return
    for extraction in extractions:
        _print_one(extraction)
    name = cache_name(extractions[0].path)
    if len(extractions) > 1:
        say(f"Next: cafe compare {name.partition('/')[0]}")
    elif are_unlabelled(FeatureCache.open(extractions[0].path).header.class_names):
        say(f"Images without labels. Next: cafe fit CACHE --method auto --pool {name}")
    elif not extractions[0].was_there:
        say(f"Next: cafe fit {name}")


def _print_one(extraction: Extraction) -> None:
    from cafe.store.key import say_items
    from cafe.store.paths import cache_name

    path, images, noun = extraction.path, extraction.images, extraction.noun
    if extraction.was_there:
        say(f"{path} is there already, made from the same data in the same way.")
        if not extraction.by_content:
            note(
                "the data were compared by names and sizes alone, as the cache of an older cafe "
                "knows no more; --rebuild makes one that knows their content."
            )
        return
    if extraction.changes.total:
        say(f"{path}: {'; '.join(extraction.changes.words)}.")
    rate = f" ({images / extraction.seconds:,.0f} {say_items('images', noun)}/s)" if images else ""
    took = f"in {extraction.seconds:.1f} s{rate}, {megabytes(path)}"
    say(f"{path}: {counted(images, noun)} encoded {took}.")
    if extraction.skipped:
        note(
            f"{counted(extraction.skipped, noun)} could not be read; 'cafe cache show "
            f"{cache_name(path)}' lists them with the reason."
        )
