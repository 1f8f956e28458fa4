"""`cafe extract`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.errors import InputError

from .options import CacheHome, Device, Json, say
from .progress import interruptible, progress_bar

if TYPE_CHECKING:
    from cafe.extract.extract import Extraction


class OnError(str, Enum):
    """What to do with an image that cannot be read."""

    skip = "skip"
    fail = "fail"


class EngineName(str, Enum):
    """Where the images are encoded."""

    local = "local"
    ray = "ray"


def extract(
    dataset: Annotated[
        str, typer.Option(help="A name of 'cafe datasets', a folder, or a CSV or JSONL manifest.")
    ],
    split_file: Annotated[
        Path | None, typer.Option(help="A split in CoOp's JSON format, or a manifest.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where datasets lie [default: $CAFE_DATA, else ./data].")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="An open_clip architecture, nano, or a folder or JSON file with a configuration "
            "[default: ViT-B-32; nano for digits].",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="A tag of open_clip, a checkpoint file, or none [default: openai, else the only]."
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt with {} for the class name; may be given several times "
            "[default: the dataset's]."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON file: class name -> list of sentences.")
    ] = None,
    views: Annotated[
        int, typer.Option(help="Views per training image, the plain one counted.")
    ] = 1,
    view_seed: Annotated[int, typer.Option(help="Seed of the augmented views.")] = 0,
    spatial: Annotated[
        bool, typer.Option("--spatial", help="Store spatial maps too, for vt-clip: large.")
    ] = False,
    pool: Annotated[
        int | None, typer.Option(help="Largest side of the maps' grid [default: 7].")
    ] = None,
    cache: CacheHome = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that decode (and encode, on a CPU).")
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="Skip and record an image that cannot be read, or stop.")
    ] = OnError.skip,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on without files that the split names.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the dataset where torchvision can.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Replace a cache that was made differently.")
    ] = False,
    engine: Annotated[
        EngineName, typer.Option(help="Encode on this machine, or on all of a Ray cluster.")
    ] = EngineName.local,
    as_json: Json = False,
) -> None:
    """Encode a dataset once with a frozen CLIP and store the features.

    Example: cafe extract --dataset eurosat --data-root ~/data --model ViT-B-32
    """
    from cafe.datasets import load_dataset
    from cafe.datasets.prompts import fill, read_prompts
    from cafe.encoders.encoder import load_encoder
    from cafe.encoders.preprocess import Augmentation
    from cafe.encoders.spatial import POOL, grid_of
    from cafe.encoders.weights import encoder_names
    from cafe.extract.blocks import ExtractOptions, encode_blocks
    from cafe.extract.extract import extract as run
    from cafe.extract.ray import RayEngine
    from cafe.store.paths import cache_folder, cache_path

    if pool is not None and not spatial:
        raise InputError("--pool is of spatial maps; add --spatial.")
    side = POOL if pool is None else pool
    augmentation = Augmentation(views=views, seed=view_seed)
    data = load_dataset(
        dataset,
        data_root=data_root,
        split_file=split_file,
        download=download,
        allow_missing=allow_missing,
        templates=tuple(template) if template else None,
    )
    sentences = (
        read_prompts(prompts, data.class_names)
        if prompts
        else fill(data.class_names, data.templates)
    )
    chosen = model or ("nano" if data.root is None else "ViT-B-32")
    path = cache_path(cache_folder(cache), data.name, *encoder_names(chosen, pretrained))
    with interruptible("finished work is kept: run the same command again to go on."):
        encoder = load_encoder(chosen, pretrained, device=device, precision=precision)
        if spatial:
            height, width = grid_of(encoder, side)
            images = sum(map(len, data.splits.values()))
            size = images * height * width * encoder.width * 2 / 1e6
            say(
                f"{images:,} maps of {height} x {width} tokens take up to {size:,.0f} MB, and as "
                "much again until the file is made."
            )
        with progress_bar("images", quiet=as_json) as progress:
            options = ExtractOptions(
                augmentation=augmentation,
                on_error="fail" if on_error is OnError.fail else "skip",
                batch_size=batch_size,
                workers=workers,
                progress=progress,
                spatial=side if spatial else None,
            )
            encode = RayEngine(chosen, pretrained) if engine is EngineName.ray else encode_blocks
            done = run(
                data,
                encoder,
                path,
                sentences=sentences,
                options=options,
                rebuild=rebuild,
                engine=encode,
            )
    _report(done, as_json=as_json)


def _report(done: Extraction, *, as_json: bool) -> None:
    from cafe.store.paths import cache_name

    if as_json:
        import json

        values = {**vars(done), "path": str(done.path)}
        typer.echo(json.dumps(values))
        return
    if done.was_there:
        typer.echo(f"{done.path} is there already, made from the same data in the same way.")
        return
    rate = done.images / done.seconds
    size = done.path.stat().st_size / 1e6
    typer.echo(
        f"{done.path}: {done.images:,} images in {done.seconds:.1f} s ({rate:,.0f} images/s), "
        f"{size:.1f} MB."
    )
    if done.skipped:
        say(
            f"{done.skipped} images could not be read; 'cafe cache show {cache_name(done.path)}' "
            "lists them with the reason."
        )
    typer.echo(f"Next: cafe fit {cache_name(done.path)}")
