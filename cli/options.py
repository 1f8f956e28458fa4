"""Options that several commands share, and how their words are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.features.splits import Shots
    from cafe.results.runs import HeadSelector
    from cafe.store import FeatureCache

CacheHome = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of feature caches [default: $CAFE_CACHE, else ./cache]."),
]
RunsHome = Annotated[Path, typer.Option("--runs", help="Folder that runs are saved in.")]
CacheName = Annotated[
    str | None,
    typer.Argument(
        metavar="[CACHE]",
        help="A cache file or a name such as digits/nano.glyphs [default: the newest].",
        show_default=False,
    ),
]
DatasetFilter = Annotated[
    str | None, typer.Option("--dataset", help="Take the newest cache of this dataset.")
]
ModelFilter = Annotated[
    str | None, typer.Option("--model", help="Take the newest cache of this encoder.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's folder, a folder of runs, or a head's file."),
]
HeadMethod = Annotated[
    str | None, typer.Option("--method", help="Take this method's head [default: the last].")
]
HeadShots = Annotated[
    str | None,
    typer.Option("--shots", help="Take the head of this many shots [default: the most]."),
]
HeadSeed = Annotated[
    int | None, typer.Option("--seed", help="Take the head of this seed [default: the first].")
]
MetaWeights = Annotated[
    Path | None,
    typer.Option("--meta", metavar="FILE", help="meta-adapter's weights, of 'cafe meta-train'."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def say(text: str) -> None:
    """Tell something beside the result: on stderr."""
    typer.echo(text, err=True)


def parse_shots(text: str) -> list[Shots]:
    """Read "16", "1,2,4" or "all"."""
    shots: list[Shots] = []
    for word in text.split(","):
        if word.strip() == "all":
            shots.append("all")
        else:
            shots.append(_whole(word, f"--shots {text}", "whole numbers, or 'all'"))
    return shots


def parse_head_selector(method: str | None, shots: str | None, seed: int | None) -> HeadSelector:
    """Which head of a run the options mean."""
    from cafe.results.runs import HeadSelector

    counts = [None] if shots is None else parse_shots(shots)
    if len(counts) > 1:
        raise InputError(f"--shots {shots}: one shot count picks one head.")
    return HeadSelector(method, counts[0], seed)


def parse_seeds(text: str) -> list[int]:
    """Read a count ("3" is the seeds 0, 1, 2) or a list ("0,5,7")."""
    form = "a count such as 3, or a list such as 0,5,7"
    seeds = [_whole(word, f"--seeds {text}", form) for word in text.split(",")]
    if len(seeds) == 1:
        if seeds[0] < 1:
            raise InputError(f"--seeds {text}: at least one seed is needed.")
        return list(range(seeds[0]))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text} names a seed twice.")
    return seeds


def parse_bytes(text: str | None) -> int | None:
    """Read "2GB", "500MB" or a plain number of bytes."""
    if text is None:
        return None
    number, factor = text.strip().upper(), 1
    for suffix, size in (("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12)):
        if number.endswith(suffix):
            number, factor = number.removesuffix(suffix), size
    try:
        count = int(float(number) * factor)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(f"--memory {text} is not understood; give a size such as 500MB or 2GB.")
    return count


def parse_ratio(text: str | None) -> dict[str, Any]:
    """Read "0.2", "learn", or candidates "0.1,0.2,0.4", as settings of the adapter."""
    if text is None or "," not in text:
        return {"ratio": _number_or_word(text)}
    return {"ratios": [_number_or_word(word) for word in text.split(",")]}


def parse_prompt(text: str) -> int | str:
    """Read "16", a count of learned words, or the words to start from."""
    return int(text) if text.strip().isdecimal() else text


def _number_or_word(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text.strip() if text else text


def _whole(word: str, what: str, form: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{what}: '{word}' is not understood; give {form}.") from None


def open_cache(
    cache: str | None, home: Path | None, dataset: str | None, model: str | None
) -> FeatureCache:
    """Open the cache that the words mean; say which, where there was a choice."""
    from cafe.store import FeatureCache
    from cafe.store.paths import cache_folder, cache_name, find_caches

    found = find_caches(cache_folder(home), cache, dataset=dataset, model=model)
    if len(found) > 1:
        say(f"taking {cache_name(found[0])}, the newest of {len(found)} caches")
    return FeatureCache.open(found[0])
