"""Where caches live and how they are named; knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from cafe.errors import CacheNotFoundError, InputError, UnknownNameError


def cache_folder(folder: Path | str | None = None) -> Path:
    """The folder of caches: the one given, else `$CAFE_CACHE`, else `./cache`."""
    return Path(folder or os.environ.get("CAFE_CACHE") or "cache")


def cache_path(root: Path, dataset: str, model: str, pretrained: str) -> Path:
    """`<root>/<dataset>/<model>.<pretrained>.h5`, with names that any file system takes."""
    return root / safe_name(dataset) / f"{safe_name(model)}.{safe_name(pretrained)}.h5"


def proposals_path(path: Path) -> Path:
    """The cache of proposals without labels that lies beside a cache."""
    return path.parent.with_name(f"{path.parent.name}-proposals") / path.name


def named_path(root: Path, name: str) -> Path:
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
    return cache_path(root, parts[0], model, pretrained)


def safe_name(name: str) -> str:
    """A name that any file system takes, and no terminal obeys: letters, digits, `.`, `+`, `-`."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "unnamed"


def list_caches(root: Path) -> list[Path]:
    """Every cache under a folder, newest first, and last what only has a cache's name."""
    files = [path for path in root.glob("*/*.h5") if not path.name.startswith(".")]
    return sorted(files, key=_age, reverse=True)


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):  # a link to nothing, or a file that was removed just now
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_mtime
    return float("-inf")


def cache_name(path: Path) -> str:
    """`dataset/model.pretrained` of a cache file."""
    return f"{path.parent.name}/{path.name.removesuffix('.h5')}"


def find_caches(
    folder: Path | str | None = None,
    cache: Path | str | None = None,
    *,
    dataset: str | None = None,
    model: str | None = None,
) -> Sequence[Path]:
    """Find the caches that are meant, newest first.

    Parameters
    ----------
    folder : Path or str, optional
        The folder of caches; None takes `$CAFE_CACHE`, else `./cache`.
    cache : Path or str, optional
        A file, or a name such as `whu-rs19/ViT-B-32.openai`; `whu-rs19` and `whu-rs19/ViT-B-32`
        will do where they mean one cache.
    dataset, model : str, optional
        Pick among the caches of the folder, or among those that a short name means.

    Raises
    ------
    CacheNotFoundError
        If there is none.
    UnknownNameError
        If the name is not among the caches of the folder; the nearest are suggested.
    InputError
        If a short name means several caches.
    """
    root = cache_folder(folder)
    if cache is not None:
        return [_find_cache(root, str(cache), model)]
    matching = [
        path
        for path in list_caches(root)
        if path.is_file()
        and dataset in (None, path.parent.name)
        and (model is None or path.name.startswith(f"{safe_name(model)}."))
    ]
    if not matching:
        filters = " ".join(filter(None, [dataset, model]))
        raise CacheNotFoundError(
            f"no cache{f' of {filters}' if filters else ''} in '{root}'; 'cafe extract "
            f"{dataset or 'digits'}' makes one, 'cafe cache ls' lists what there is."
        )
    return matching


def _find_cache(root: Path, cache: str, model: str | None) -> Path:
    """The file of one cache: a file goes before a name, and a whole name before a short one."""
    if Path(cache).is_file():
        return Path(cache)
    is_whole = cache.count("/") == 1 and "." in cache.rpartition("/")[2]
    path = named_path(root, cache) if is_whole else Path(cache)
    if path.is_file():
        return path
    short = caches_of(root, cache)
    if model is not None and len(short) > 1:
        short = [path for path in short if path.name.startswith(f"{safe_name(model)}.")] or short
    if short:
        if len(short) == 1:
            return short[0]
        names = ", ".join(sorted(map(cache_name, short)))
        raise InputError(f"'{cache}' means {len(short)} caches in '{root}'; name one: {names}.")
    if os.path.lexists(path) and (is_whole or not path.is_dir()):
        raise no_cache(path)
    if cache and Path(cache).is_dir() and not cache.endswith(".h5"):
        raise CacheNotFoundError(f"'{cache}' is a folder and no cache; {_of_folder(root, cache)}.")
    is_name = cache.count("/") <= 1 and not cache.endswith(".h5")
    caches = list_caches(root) if is_name else []
    if caches:
        raise UnknownNameError("cache", cache, map(cache_name, caches), f"In '{root}'.")
    raise no_cache(cache, f" in '{root}'" if is_name else "")


def _of_folder(root: Path, folder: str) -> str:
    """What to name in the place of a folder of images."""
    made = caches_of(root, Path(folder).resolve().name)
    if made:
        return f"name its cache, {' or '.join(map(cache_name, made))}"
    return f"'{shlex.join(['cafe', 'extract', folder])}' makes one of its images"


def caches_of(root: Path, name: str) -> list[Path]:
    """The caches that a short name means: `photos` or `photos/nano`, newest first."""
    return [
        path
        for path in list_caches(root)
        if path.is_file() and (path.parent.name == name or cache_name(path).startswith(f"{name}."))
    ]


def each_cache(root: Path, name: str) -> list[str]:
    """The name of each cache that a name means: all of a dataset, where it names one."""
    if Path(name).is_file() or "/" in name:
        return [name]
    return sorted(str(path) for path in caches_of(root, name)) or [name]


def no_cache(path: Path | str, where: str = "") -> CacheNotFoundError:
    """The error for what is no file: nothing, a link to nothing, or something else."""
    if os.path.lexists(path):
        what = "no file" if Path(path).exists() else "a link to nothing"
        return CacheNotFoundError(f"no cache '{path}': it is {what}; remove it or name another.")
    return CacheNotFoundError(
        f"no cache '{path}'{where}; 'cafe cache ls' lists what there is, 'cafe extract' makes one."
    )
