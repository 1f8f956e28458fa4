"""`cafe cache verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from cafe.errors import InputError, counted

from .. import completion
from .. import options as opt
from ..caches import open_cache
from ..output import megabytes, note, print_json, say
from ..progress import progress_bar

if TYPE_CHECKING:
    from cafe.store import FeatureCache

SAME_COSINE = 0.999
"""What the same image encoded again reaches at least, in another batch or precision."""

Sample = Annotated[int, Option(help="Encode this many images again and compare; 0 encodes none.")]
SourceDataset = Annotated[
    str | None,
    Option(
        "--dataset",
        help="Where the images are [default: the cache's dataset].",
        autocompletion=completion.datasets,
    ),
]


def verify(
    cache_argument: opt.CacheName = None,
    sample: Sample = 0,
    dataset: SourceDataset = None,
    data_root: opt.DataRoot = None,
    split_file: opt.SplitFile = None,
    model: opt.LocalModel = None,
    cache: opt.CacheHome = None,
    as_json: opt.Json = False,
) -> None:
    """Recompute a cache's checksums and check what is in it. Exit code 1 if anything is wrong.

    Example: cafe cache verify digits/nano.glyphs --sample 20
    """
    from cafe.store import verify_cache
    from cafe.store.paths import find_caches

    path = find_caches(cache, cache_argument)[0]
    with progress_bar("bytes", interrupted="nothing was changed.", quiet=as_json) as progress:
        check = verify_cache(path, progress)
    problems, lowest = list(check.problems), None
    if sample and not problems:
        opened = open_cache(str(path), None)
        if opened.noun != "image":
            raise InputError(
                f"--sample encodes images again, and '{path}' holds boxes; 'cafe extract' with the "
                "same --boxes encodes anew what has changed."
            )
        lowest = _lowest_cosine(opened, sample, dataset, data_root, split_file, model)
        if lowest < SAME_COSINE:
            problems.append(f"an image encoded again has cosine {lowest:.4f} to its feature.")
    if as_json:
        row = {"path": str(path), "problems": problems, "bytes": check.bytes}
        print_json({**row, "seconds": check.seconds, "lowest_cosine": lowest})
    elif not problems:
        say(f"{path}: {megabytes(check.bytes)} checked in {check.seconds:.2f} s, sound.")
        if lowest is not None:
            say(f"{counted(sample, 'image')} encoded again: cosine {lowest:.5f} at the lowest.")
    else:
        for problem in problems:
            note(f"cafe: {problem}")
    if problems:
        raise typer.Exit(1)


def _lowest_cosine(
    cache: FeatureCache,
    count: int,
    dataset: str | None,
    data_root: Path | None,
    split_file: Path | None,
    model: str | None,
) -> float:
    from cafe.datasets import load_dataset
    from cafe.encoders.recorded import WEIGHTS, load_recorded_encoder, record_of_cache
    from cafe.extract.reencode import reencode_sample

    header = cache.header
    data = load_dataset(
        dataset or header.dataset,
        data_root=data_root,
        split_file=split_file,
        allow_missing=bool(header.missing),
    )
    encoder = load_recorded_encoder(record_of_cache(cache), model, parts=WEIGHTS)
    return reencode_sample(cache, data, encoder, count)
