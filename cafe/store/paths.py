"""Where caches live and how they are named; knows nothing of what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cafe.errors import CacheNotFoundError, InputError, UnknownNameError


def cache_folder(folder: Path | str | None = None) -> Path:
    """The folder of caches: the one given, else `$CAFE_CACHE`, else `./cache`."""
    return Path(folder or os.environ.get("CAFE_CACHE") or "cache")


def cache_path(home: Path, dataset: str, model: str, pretrained: str) -> Path:
    """`<home>/<dataset>/<model>.<pretrained>.h5`, with names that any file system takes."""
    return home / _safe(dataset) / f"{_safe(model)}.{_safe(pretrained)}.h5"


def named_path(home: Path, name: str) -> Path:
    """The file of a cache named `dataset/model.pretrained`.

    Raises
    ------
    InputError
        If the name has another form.
    """
    parts = name.removesuffix(".h5").split("/")
    if len(parts) != 2 or not all(parts) or "." not in parts[1]:
        raise InputError(
            f"'{name}' names no cache; the form is dataset/model.pretrained, as in "
            "whu-rs19/ViT-B-32.openai."
        )
    model, _, pretrained = parts[1].partition(".")
    return cache_path(home, parts[0], model, pretrained)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "unnamed"


def list_caches(home: Path) -> list[Path]:
    """Every cache under a folder, newest first."""
    files = [path for path in home.glob("*/*.h5") if not path.name.startswith(".")]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def cache_name(path: Path) -> str:
    """`dataset/model.pretrained` of a cache file."""
    return f"{path.parent.name}/{path.name.removesuffix('.h5')}"


def find_caches(
    home: Path,
    cache: str | None = None,
    *,
    dataset: str | None = None,
    model: str | None = None,
) -> Sequence[Path]:
    """Find the caches that words on a command line mean, newest first.

    Parameters
    ----------
    home : Path
        The folder of caches.
    cache : str, optional
        A file, or a name such as `whu-rs19/ViT-B-32.openai`.
    dataset, model : str, optional
        Pick among the caches of the folder.

    Raises
    ------
    CacheNotFoundError
        If there is none.
    UnknownNameError
        If the name is not among the caches of the folder; the nearest are suggested.
    """
    there = list_caches(home)
    if cache is not None:
        if Path(cache).is_file():
            return [Path(cache)]
        named = named_path(home, cache) if cache.count("/") == 1 else Path(cache)
        if named.is_file():
            return [named]
        if there and named.suffix == ".h5" and cache.count("/") == 1:
            raise UnknownNameError("cache", cache, map(cache_name, there), f"In '{home}'.")
        raise CacheNotFoundError(f"no cache '{cache}' in '{home}'; 'cafe extract' makes one.")
    found = [
        path
        for path in there
        if dataset in (None, path.parent.name)
        and (model is None or path.name.startswith(f"{_safe(model)}."))
    ]
    if not found:
        wanted = " ".join(filter(None, [dataset, model]))
        raise CacheNotFoundError(
            f"no cache{f' of {wanted}' if wanted else ''} in '{home}'; 'cafe extract --dataset "
            f"{dataset or 'digits'}' makes one, 'cafe cache ls' lists what there is."
        )
    return found
