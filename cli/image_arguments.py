"""The images that a command line names: files, folders, globs, URLs, and paths on stdin."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cafe.errors import CafeError, InputError

if TYPE_CHECKING:
    from cafe.extract.image_sources import ImageSource
    from cafe.inference.cached_images import CachedImages


def named_images(
    words: Sequence[str], split: str | None, home: Path | None, note: Callable[[str], None]
) -> CachedImages | list[ImageSource]:
    """The images that are asked about: those of a cache where one is named, else files.

    Raises
    ------
    CafeError
        If there is none, or a cache is named beside others.
    """
    from cafe.extract.image_sources import list_images

    caches = [word for word in words if _is_cache(word, home)]
    if not caches:
        if split is not None:
            raise InputError("--split is of a cache; name one in the place of images.")
        return list_images(expand_images(words), note)
    if len(words) > 1:
        raise InputError(f"'{caches[0]}' is a cache; name it alone, or images alone.")
    from cafe.inference.cached_images import CachedImages
    from cafe.store import FeatureCache

    return CachedImages(FeatureCache.open(caches[0], cache_folder=home), split or "test")


def _is_cache(word: str, home: Path | None) -> bool:
    from cafe.store.paths import cache_folder

    named = cache_folder(home) / f"{word}.h5"
    # unlike Path.is_file it takes any word: one that is too long is no cache
    return word.endswith(".h5") or (not os.path.lexists(word) and os.path.isfile(named))  # noqa: PTH113


def expand_images(words: Sequence[str]) -> list[str]:
    """Put what a glob stands for, and the lines of stdin for `-`, in its place.

    Raises
    ------
    CafeError
        If a glob stands for nothing.
    """
    return [path for word in words for path in _expand(word)]


def _expand(word: str) -> list[str]:
    if word == "-":
        return _lines_of_stdin()
    if (
        not glob.has_magic(word)
        or word.startswith(("http://", "https://"))
        or os.path.lexists(word)
    ):
        return [word]
    found = sorted(glob.glob(word, recursive=True))  # noqa: PTH207  # which refuses "/..."
    if not found:
        raise CafeError(f"no file is named like '{word}'; 'DIR/**/*.jpg' looks into all folders.")
    return found


def _lines_of_stdin() -> list[str]:
    """One path a line, or with zero bytes between, as `find -print0` has them."""
    content = os.fsdecode(sys.stdin.buffer.read())
    lines = content.split("\0") if "\0" in content else content.replace("\r\n", "\n").split("\n")
    return list(filter(None, lines))
