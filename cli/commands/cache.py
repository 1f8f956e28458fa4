"""`cafe cache ls`, `show`, `rm`, `prune`, `export` and `merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from cafe.errors import CacheError, CafeError, counted

from .. import options as opt
from ..caches import count_images, open_cache, refuse_present, summarize_cache
from ..output import confirm_removal, megabytes, note, print_json, print_table, say
from ..signals import WHOLE, on_stop

EqualIds = Annotated[
    Literal["rename", "refuse"],
    Option(help="Different images of one id: put the dataset before every id, or refuse."),
]

_MOST_LINES = 20  # of a list that `show` prints


def list_(cache: opt.CacheHome = None, as_json: opt.Json = False) -> None:
    """List the caches of the cache folder, newest first.

    Example: cafe cache ls
    """
    from cafe.store import FeatureCache
    from cafe.store.paths import cache_folder, cache_name, list_caches

    root = cache_folder(cache)
    _note_hidden(root)
    paths, rows = list_caches(root), list[dict[str, Any]]()
    for path in paths:
        try:
            rows.append({"name": cache_name(path), **summarize_cache(FeatureCache.open(path))})
        except CafeError as error:
            note(f"cafe: {error}")
    if as_json:
        print_json(rows)
    elif rows:
        headers = ["cache", "classes", "train / val / test", "D", "prompts", "views", "MB", "made"]
        print_table(headers, list(map(_cells, rows)), numbers=(1, 2, 3, 4, 5, 6))
    elif not paths:
        say(f"no caches in '{root}'; 'cafe extract digits' makes one.")


def _note_hidden(root: Path) -> None:
    """Note what lies beside the caches: left-overs of killed writers, and work to go on with."""
    from cafe.store.removal import find_interrupted, find_left_overs

    left, interrupted = find_left_overs(root), find_interrupted(root)
    if left.number:
        note(
            f"left-overs of killed writers: {left.number:,}, {megabytes(left.bytes)}; 'cafe cache "
            "prune' removes them."
        )
    if interrupted.number:
        note(
            f"interrupted extractions: {interrupted.number:,}, {megabytes(interrupted.bytes)}; "
            "'cafe extract' goes on with them, 'cafe cache prune --interrupted' removes them."
        )


def _cells(row: dict[str, Any]) -> list[str]:
    images = " / ".join(f"{row['images'].get(s, 0):,}" for s in ("train", "val", "test"))
    images += " boxes" if row["items"] == "box" else ""
    numbers = [str(row[name]) for name in ("width", "prompts", "views")]
    size = f"{row['bytes'] / 1e6:.1f}"
    return [row["name"], str(row["classes"]), images, *numbers, size, row["created"]]


def show(
    cache_argument: opt.CacheName = None, cache: opt.CacheHome = None, as_json: opt.Json = False
) -> None:
    """Show what a cache holds and how it was made.

    Example: cafe cache show digits/nano.glyphs
    """
    opened = open_cache(cache_argument, cache)
    header = opened.header
    details = {
        **summarize_cache(opened),
        "source": header.source,
        "logit_scale": header.logit_scale,
        "logit_bias": header.logit_bias,
        "class_names": header.class_names,
        "sentences": header.sentences if header.has_text else [],
        "key": dict(header.key),
        "versions": dict(header.versions),
        "skipped": header.skipped,
        "missing": header.missing,
        "notes": header.notes,
    }
    if as_json:
        print_json({name: _streamed(name, value) for name, value in details.items()})
        return
    for name, value in details.items():
        _show(name, value)


def _streamed(name: str, value: Any) -> Any:
    """As `_plain`, with rows that are unpacked when they are printed."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _plain(name, value)
    return (_plain(name, row) for row in value)


def _plain(name: str, value: Any) -> Any:
    """A detail as JSON takes it; names of files may not be UTF-8."""
    from cafe.errors import escape_bytes

    if isinstance(value, str):
        return escape_bytes(value) if name in ("skipped", "missing") else value
    return [_plain(name, part) for part in value] if isinstance(value, Sequence) else value


def _show(name: str, value: Any) -> None:
    """Print a value on a line, and the parts of a dict or a list on lines of their own."""
    if isinstance(value, dict):
        say(f"{name}:")
        for key, part in value.items():
            say(f"  {key}: {json.dumps(part)}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        say(f"{name}: {len(value)}")
        for item in _plain(name, value[:_MOST_LINES]):
            say(f"  {item if isinstance(item, str) else ' | '.join(item)}")
        if len(value) > _MOST_LINES:
            say(f"  ... and {len(value) - _MOST_LINES} more; --json lists all")
    else:
        say(f"{name}: {value}")


def remove(
    name: opt.RequiredCache,
    cache: opt.CacheHome = None,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
) -> None:
    """Remove a cache.

    Example: cafe cache rm digits/nano.glyphs --yes
    """
    from cafe.store.paths import find_caches
    from cafe.store.removal import check_removable, remove_cache

    path = find_caches(cache, name)[0]
    check_removable(path, cache)
    confirm_removal([path], yes=yes, error=CacheError)
    size = remove_cache(path, cache)
    if as_json:
        print_json({"removed": str(path), "bytes": size})
    else:
        say(f"removed {path}, {megabytes(size)}.")


def prune(
    cache: opt.CacheHome = None,
    interrupted: Annotated[
        bool, Option("--interrupted", help="Remove the finished work of extractions too.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Remove what killed commands left in the cache folder. What is in use stays.

    Example: cafe cache prune
    """
    from cafe.store import removal
    from cafe.store.paths import cache_folder

    removed = removal.prune(cache_folder(cache), interrupted=interrupted)
    if as_json:
        print_json(removed._asdict())
    else:
        say(f"left-overs removed: {removed.number:,}, {megabytes(removed.bytes)}.")


def export(
    name: opt.RequiredCache,
    target: Annotated[Path, Argument(metavar="FILE", help="Ends in .npz or .safetensors.")],
    cache: opt.CacheHome = None,
    replace: opt.Replace = False,
    as_json: opt.Json = False,
) -> None:
    """Write a cache as a NumPy archive or as safetensors.

    Example: cafe cache export digits/nano.glyphs digits.npz
    """
    from cafe.store.conversion import export_cache

    opened = open_cache(name, cache)
    refuse_present(target, replace=replace)
    with on_stop(WHOLE):
        export_cache(opened, target, replace=replace)
    size = target.stat().st_size
    if as_json:
        print_json({"path": str(target), "bytes": size})
    else:
        say(f"{target}: {megabytes(size)}.")


def merge(
    name: opt.NewCache,
    sources: Annotated[list[str], Argument(metavar="CACHE...", help="The caches to join.")],
    equal_ids: EqualIds = "rename",
    cache: opt.CacheHome = None,
    replace: opt.Replace = False,
    as_json: opt.Json = False,
) -> None:
    """Join caches of different images of the same classes. One encoder made them.

    Example: cafe cache merge all/ViT-B-32.openai north/ViT-B-32.openai south/ViT-B-32.openai
    """
    from cafe.store.merge import merge_caches
    from cafe.store.paths import cache_folder, named_path

    path = named_path(cache_folder(cache), name)
    refuse_present(path, replace=replace)
    opened = [open_cache(source, cache) for source in sources]
    with on_stop(WHOLE):
        merged = merge_caches(opened, path, replace=replace, equal_ids=equal_ids, note=note)
    if as_json:
        print_json({"path": str(path), "images": dict(merged.counts)})
    else:
        say(f"{path}: {count_images(merged)} of {counted(len(sources), 'cache')}.")
