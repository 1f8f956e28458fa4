"""Caches as a command line names them, and what is printed of one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.errors import CacheMismatchError, InputError, counted, escape_bytes

from .output import note

if TYPE_CHECKING:
    from cafe.store import FeatureCache


def open_cache(
    name: str | None, root: Path | None, dataset: str | None = None, model: str | None = None
) -> FeatureCache:
    """Open the cache that the options mean; note which, where there was a choice.

    `NAME@DIGEST`, as records of runs have it, is refused where the content is another.
    """
    from cafe.store import FeatureCache
    from cafe.store.paths import cache_name, find_caches

    name, digest = _split_digest(name)
    paths = find_caches(root, name, dataset=dataset, model=model)
    if len(paths) > 1:
        note(f"taking {cache_name(paths[0])}, the newest of {counted(len(paths), 'cache')}")
    cache = FeatureCache.open(paths[0])
    if not cache.content_sha256.startswith(digest):
        raise CacheMismatchError(
            f"'{paths[0]}' has the content {cache.content_sha256[: len(digest)]}, not {digest}: it "
            f"was made anew since; leave out '@{digest}' to take it all the same."
        )
    return cache


def _split_digest(name: str | None) -> tuple[str | None, str]:
    """Split `NAME@DIGEST`; a file that is called so goes first."""
    match = re.fullmatch(r"(.+)@([0-9a-f]{8,64})", name or "")
    return (name, "") if match is None or Path(match[0]).exists() else (match[1], match[2])


def open_caches(
    names: list[str] | None,
    root: Path | None,
    dataset: str | None,
    model: str | None,
    *,
    each: bool = False,
) -> list[FeatureCache]:
    """Open each cache that is named, with `each` all of a dataset; or the newest."""
    from cafe.store.paths import cache_folder, each_cache

    if each and names:
        names = [one for name in names for one in each_cache(cache_folder(root), name)]
    chosen: list[str | None] = [*names] if names else [None]
    return [open_cache(name, root, dataset, model) for name in chosen]


def named_beside(
    name: str | None, root: Path | None, encoder: Mapping[str, str] | None = None
) -> FeatureCache | str | None:
    """The cache that `--pool` or `--proposals` names, in the cache folder; or the word it is.

    Of a folder of images that is no cache yet, the error says how to encode it with `encoder`, the
    `model` and `pretrained` of what it is for.
    """
    from cafe.store.paths import cache_folder, caches_of

    if name is None or name in ("none", "self", "test"):
        return name
    is_folder = name != "" and Path(name).is_dir()
    if encoder and is_folder and not caches_of(cache_folder(root), Path(name).name):
        words = ["cafe", "extract", name, "--model", encoder["model"]]
        words += ["--pretrained", encoder["pretrained"]]
        words += [] if root is None else ["--cache", str(root)]
        raise InputError(
            f"'{name}' is a folder and no cache; first: {escape_bytes(shlex.join(words))}"
        )
    return open_cache(name, root, None, None)


def encoder_names(*caches: FeatureCache) -> dict[str, str]:
    """The encoder of caches, as options name it; nothing where there are several."""
    encoders = {(cache.header.model, cache.header.pretrained) for cache in caches}
    return dict(zip(("model", "pretrained"), *encoders, strict=True)) if len(encoders) == 1 else {}


def refuse_present(path: Path, *, replace: bool) -> None:
    """Refuse to write a file that is there."""
    if path.exists() and not replace:
        raise InputError(f"'{path}' is there already; choose another name, or use --replace.")


def count_images(cache: FeatureCache) -> str:
    """`600 train, 200 val, 997 test images`."""
    *others, (split, count) = cache.counts.items()
    last = counted(count, f"{split} {cache.noun}")
    return ", ".join([*(f"{n:,} {name}" for name, n in others), last])


def summarize_cache(cache: FeatureCache) -> dict[str, Any]:
    """What `cafe cache ls`, `show` and `import` tell of a cache, as JSON values."""
    header = cache.header
    return {
        "path": str(cache.path),
        "dataset": header.dataset,
        "encoder": encoder_names(cache),
        "classes": len(header.class_names),
        "items": cache.noun,
        "images": dict(cache.counts),
        "width": cache.width,
        "dtype": cache.dtype,
        "prompts": len(header.sentences[0]),
        "views": cache.views,
        "tokens": cache.spatial_size,
        "pre_projection": cache.pre_projection_size,
        "skipped": len(header.skipped),
        "missing": len(header.missing),
        "bytes": cache.path.stat().st_size,
        "created": header.created,
    }
