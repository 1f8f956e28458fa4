"""`cafe cache verify`, `rm`, `export` and `merge`: what is done to whole cache files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cafe.errors import CacheError, InputError

from .options import CacheHome, CacheName, Json, open_cache, say
from .progress import progress_bar

if TYPE_CHECKING:
    from cafe.store import FeatureCache

SAME_COSINE = 0.999
"""What the same image encoded again reaches at least, in another batch or precision."""

Replace = Annotated[bool, typer.Option("--replace", help="Replace a file of that name.")]


def verify(
    cache_argument: CacheName = None,
    sample: Annotated[
        int, typer.Option(help="Encode this many images again and compare; 0 encodes none.")
    ] = 0,
    dataset: Annotated[
        str | None, typer.Option(help="Where the images are [default: the cache's dataset].")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where datasets lie [default: $CAFE_DATA, else ./data].")
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="The split file that the cache was made with.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The encoder, where it is a local one.")] = None,
    cache: CacheHome = None,
    as_json: Json = False,
) -> None:
    """Recompute a cache's checksums and check all that is in it; exit code 1 if anything is wrong.

    Example: cafe cache verify digits/nano.glyphs --sample 20
    """
    from cafe.store import verify_cache
    from cafe.store.paths import cache_folder, find_caches

    path = find_caches(cache_folder(cache), cache_argument)[0]
    with progress_bar("bytes", quiet=as_json) as progress:
        found = verify_cache(path, progress)
    problems = list(found.problems)
    lowest = None
    if sample and not problems:
        opened = open_cache(str(path), None, None, None)
        lowest = _sample(opened, sample, dataset, data_root, split_file, model)
        if lowest < SAME_COSINE:
            problems.append(f"an image encoded again has cosine {lowest:.4f} to its feature.")
    if as_json:
        row = {"path": str(path), "problems": problems, "bytes": found.bytes}
        typer.echo(json.dumps({**row, "seconds": found.seconds, "lowest_cosine": lowest}))
    elif not problems:
        typer.echo(f"{path}: {found.bytes / 1e6:.1f} MB checked in {found.seconds:.2f} s, sound.")
        if lowest is not None:
            typer.echo(f"{sample} images encoded again: cosine {lowest:.5f} at the lowest.")
    else:
        for problem in problems:
            say(f"cafe: {problem}")
    if problems:
        raise typer.Exit(1)


def _sample(
    opened: FeatureCache,
    count: int,
    dataset: str | None,
    data_root: Path | None,
    split_file: Path | None,
    model: str | None,
) -> float:
    from cafe.datasets import load_dataset
    from cafe.encoders.recorded import WEIGHTS, load_recorded_encoder, record_of_cache
    from cafe.extract.reencode import reencode_sample

    header = opened.header
    data = load_dataset(
        dataset or header.dataset,
        data_root=data_root,
        split_file=split_file,
        allow_missing=bool(header.missing),
    )
    encoder = load_recorded_encoder(record_of_cache(opened), model, parts=WEIGHTS)
    return reencode_sample(opened, data, encoder, count)


def remove(
    name: Annotated[str, typer.Argument(metavar="CACHE", help="A cache file or its name.")],
    cache: CacheHome = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a cache.

    Example: cafe cache rm digits/nano.glyphs --yes
    """
    from cafe.store.conversion import remove_cache
    from cafe.store.paths import cache_folder, find_caches

    path = find_caches(cache_folder(cache), name)[0]
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove {path}?", err=True)):
        raise CacheError(f"'{path}' is kept; --yes removes it without asking.")
    size = remove_cache(path)
    if as_json:
        typer.echo(json.dumps({"removed": str(path), "bytes": size}))
    else:
        typer.echo(f"removed {path}, {size / 1e6:.1f} MB.")


def export(
    name: Annotated[str, typer.Argument(metavar="CACHE", help="A cache file or its name.")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .npz or .safetensors.")],
    cache: CacheHome = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Write a cache as a NumPy archive or as safetensors, for other programs.

    Example: cafe cache export digits/nano.glyphs digits.npz
    """
    from cafe.store.conversion import export_cache

    opened = open_cache(name, cache, None, None)
    _refuse_present(target, replace=replace)
    export_cache(opened, target)
    size = target.stat().st_size
    if as_json:
        typer.echo(json.dumps({"path": str(target), "bytes": size}))
    else:
        typer.echo(f"{target}: {size / 1e6:.1f} MB.")


def merge(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="dataset/model.pretrained of the new cache.")
    ],
    sources: Annotated[list[str], typer.Argument(metavar="CACHE...", help="The caches to join.")],
    cache: CacheHome = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Join caches that one encoder made of different images of the same classes.

    Example: cafe cache merge all/ViT-B-32.openai north/ViT-B-32.openai south/ViT-B-32.openai
    """
    from cafe.store.conversion import merge_caches
    from cafe.store.paths import cache_folder, named_path

    path = named_path(cache_folder(cache), name)
    _refuse_present(path, replace=replace)
    made = merge_caches([open_cache(source, cache, None, None) for source in sources], path)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "images": dict(made.counts)}))
        return
    images = ", ".join(f"{count:,} {split}" for split, count in made.counts.items())
    typer.echo(f"{path}: {images} images of {len(sources)} caches.")


def _refuse_present(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise InputError(f"'{path}' is there already; choose another name, or use --replace.")
