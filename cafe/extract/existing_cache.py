"""The existing cache of an extraction: used as it is, brought up to date, or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe.datasets.class_order import first_pairs
from cafe.datasets.dataset import Dataset
from cafe.datasets.make_split import keep_splits
from cafe.datasets.text_files import distinct_names, quote_some
from cafe.errors import CacheError, CacheFormatError, CacheMismatchError, counted
from cafe.extract.dataset_diff import Changes, DatasetDiff, Place, cached_splits, compare_with_cache
from cafe.store import FeatureCache, Header
from cafe.store.key import Key, differences
from cafe.store.paths import list_caches

KeyOf = Callable[[Dataset, Sequence[Sequence[str]]], Key]
"""The key of an extraction of a dataset with these sentences."""

_COMPARED_BY_ITEM = ("class_names_sha256", "dataset_sha256", "sentences_sha256")
"""Parts of a key that may change: images and classes are compared one by one instead."""


@dataclass(frozen=True)
class ExistingCache:
    """An existing cache, compared with the extraction that is asked for.

    Attributes
    ----------
    cache : FeatureCache
    diff : DatasetDiff
    key : Key
        What is asked for.
    by_content : bool
        Whether the content of the images' files was compared.
    """

    cache: FeatureCache
    diff: DatasetDiff
    key: Key
    by_content: bool

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        return not str(self.diff.changes) and not differences(self.cache.header.key, self.key)


def find_existing(
    path: Path,
    dataset: Dataset,
    sentences: Sequence[Sequence[str]],
    key_of: KeyOf,
    *,
    rebuild: bool = False,
) -> ExistingCache | None:
    """Find the cache file that exists, and compare it with what is asked for.

    Parameters
    ----------
    path : Path
    dataset : Dataset
    sentences : sequence of sequence of str
        Prompts of every class. (C, P)
    key_of : callable
    rebuild : bool
        Whether to encode anew. Where the prompts alone have changed, images are not.

    Returns
    -------
    ExistingCache or None
        None where there is none, or none that can be used.

    Raises
    ------
    CacheMismatchError
        If it was made by another encoder, with other prompts or of other images.
    CacheFormatError
        If it is no cache; with `rebuild` it is replaced.
    """
    if not path.is_file():
        return None
    try:
        cache = FeatureCache.open(path)
    except CacheFormatError:
        if rebuild:
            return None
        raise
    different, prompts = _differences(cache, dataset, sentences, key_of)
    existing = None if different else _compare(cache, dataset, sentences, key_of)
    if existing is not None:
        prompts = [*_renamed(existing.diff), *prompts][:1]
    if rebuild:
        return existing if prompts and existing and not existing.diff.is_other_dataset else None
    if different or prompts or existing is None:
        advice = _BOTH if different or not prompts else _TEXT_ALONE
        why = [*different, *prompts] or [_of_images(cache, dataset)]
        raise CacheMismatchError(f"'{path}' was made differently: {'; '.join(why)}. {advice}")
    if existing.diff.is_other_dataset:
        raise CacheMismatchError(f"{_of_others(existing.cache, existing.diff)}. {_BOTH}")
    return existing


_BOTH = "Replace it with rebuild=True, or keep both with another name=."
_TEXT_ALONE = "With rebuild=True the prompts alone are encoded anew; name= keeps both."


def keep_known_splits(path: Path, dataset: Dataset, *, rebuild: bool = False) -> Dataset:
    """A dataset whose images are in the splits that they have in the newest cache of its name.

    Parameters
    ----------
    path : Path
        A cache file that is to be written.
    dataset : Dataset
    rebuild : bool
        Whether a cache of other images may stand beside it.

    Raises
    ------
    CacheMismatchError
        If a cache of the name, made with another encoder, is of other images.
    """
    folder = path.parent
    listed = [path, *(other for other in list_caches(folder.parent) if other.parent == folder)]
    for other in filter(Path.is_file, listed) if dataset.knows_content else ():
        with contextlib.suppress(CacheError):
            cache = FeatureCache.open(other)
            splits = cached_splits(cache)
            diff = compare_with_cache(cache, dataset)
            if diff is None:  # an older cafe made it, or an import
                dataset = keep_splits(dataset, splits)
            elif not diff.is_other_dataset:
                return diff.dataset
            elif not rebuild:
                break
    else:
        return dataset
    raise CacheMismatchError(f"{_of_others(cache, diff)}. Give this one another name with name=.")


def _of_others(cache: FeatureCache, diff: DatasetDiff) -> str:
    now = sum(map(len, diff.dataset.splits.values()))
    before = counted(sum(cache.counts.values()), "image")
    return (
        f"'{cache.path}' was made differently: of its {before} "
        f"{len(diff.places):,} are among the {now:,} of this '{diff.dataset.name}'"
    )


def _renamed(diff: DatasetDiff) -> list[str]:
    """The clause that tells of classes that had another name."""
    renamed = diff.renamed
    if not renamed:
        return []
    pairs = first_pairs([*renamed], [*renamed.values()])
    if len(renamed) == 1:
        return [f"a class has another name ({pairs})"]
    return [f"{len(renamed):,} classes have other names ({pairs})"]


def _differences(
    cache: FeatureCache, dataset: Dataset, sentences: Sequence[Sequence[str]], key_of: KeyOf
) -> tuple[list[str], list[str]]:
    """In what encoder and preparation differ, and in what the prompts do."""
    header = cache.header
    before = [[text for text in row if text] for row in header.sentences]
    wanted = {**key_of(dataset, before if any(before) else sentences)}
    key = {**header.key}
    for part in _COMPARED_BY_ITEM:
        wanted.pop(part, None)
        key.pop(part, None)
    prompts = differences(
        {"templates": key.pop("templates", None)}, {"templates": wanted.pop("templates")}
    )
    return differences(key, wanted), prompts or _other_prompts(header, dataset, sentences)


def prompts_differ(path: Path, dataset: Dataset, sentences: Sequence[Sequence[str]]) -> bool:
    """Whether the cache that is there was made with other prompts, or other names of classes."""
    with contextlib.suppress(CacheError):
        header = FeatureCache.open(path).header
        is_renamed = {*header.class_names} != {*dataset.class_names}
        return is_renamed or bool(_other_prompts(header, dataset, sentences))
    return False


def _other_prompts(
    header: Header, dataset: Dataset, sentences: Sequence[Sequence[str]]
) -> list[str]:
    """The clause that tells of classes that had other prompts, if any of the same name had."""
    rows = zip(distinct_names(header.class_names), header.sentences, strict=True)
    before = {name: [text for text in row if text] for name, row in rows}
    now = zip(distinct_names(dataset.class_names), map(list, sentences), strict=True)
    other = [(name, row) for name, row in now if before.get(name, row) != row]
    if not other:
        return []
    name, row = other[0]
    count = f"{len(other):,} of {len(before):,} classes have other prompts"
    return [f"{count}: {quote_some(before[name])} for '{name}', asked for {quote_some(row)}"]


def _compare(
    cache: FeatureCache, dataset: Dataset, sentences: Sequence[Sequence[str]], key_of: KeyOf
) -> ExistingCache | None:
    """The cache with its differences; None where it does not tell what has changed."""
    diff = compare_with_cache(cache, dataset)
    if diff is not None:
        return ExistingCache(cache, diff, key_of(diff.dataset, sentences), by_content=True)
    dataset = keep_splits(dataset, cached_splits(cache))
    key = key_of(dataset, sentences)
    if key["dataset_sha256"] != cache.header.key.get("dataset_sha256"):
        return None
    places = {n: Place(s, row) for s in cache.counts for row, n in enumerate(cache.ids(s))}
    diff = DatasetDiff(dataset, Changes(kept=len(places)), places, {})
    return ExistingCache(cache, diff, key, by_content=not dataset.knows_content)


def _of_images(cache: FeatureCache, dataset: Dataset) -> str:
    """How the images differ from those of a cache that does not tell what has changed."""
    before, now = set(cached_splits(cache)), {i.id for s in dataset.splits.values() for i in s}
    counts = {"new": len(now - before), "gone": len(before - now)}
    names = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return (
        f"its images, their labels or their splits are others ({names or 'of the same names'}), "
        "and it does not know their content, as an older cafe made it"
        if dataset.knows_content
        else "its images, their labels or their splits are others"
    )
