"""Images without labels that a method may look at, and in words what a result owes to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import CacheMismatchError, InputError
from cafe.features.tensors import LARGE
from cafe.store import FeatureCache
from cafe.store.key import Key, encoder_difference
from cafe.store.paths import cache_name

INDUCTIVE = "inductive"
"""What a result is that saw nothing but labelled images and the classes' text."""

SAME = 0.9999
"""Cosine from which on two features are of one image: its own copies differ by rounding alone."""

_BLOCK = 1 << 24  # cosines at a time
_ROWS = 1 << 16  # images at a time


@dataclass(frozen=True, eq=False)
class Pool:
    """Image features without labels.

    It has no field for labels and does not know where its features are from: no method can get at
    a label of the pool, whatever it does.

    Attributes
    ----------
    x : Tensor
        Raw image features, at least one. (N, D)
    learning : str
        What a result is that saw them: "transductive: ..." or "semi-supervised: ...".
    """

    x: Tensor  # (N, D)
    learning: str = ""

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or not len(self.x):
            raise InputError(
                f"a pool must be features (N, D) of at least one image; got {tuple(self.x.shape)}."
            )
        for rows in torch.split(self.x, _ROWS):
            if not rows.isfinite().all():
                raise InputError("a pool has features that are not finite; leave those images out.")
        if not self.learning:
            object.__setattr__(self, "learning", describe_pool(len(self.x)))

    @classmethod
    def of(cls, pool: Pool | ArrayLike) -> Pool:
        """A pool as it is, or of an array of features."""
        return pool if isinstance(pool, Pool) else cls(torch.from_numpy(np.array(pool, np.float32)))

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def unit(self) -> Tensor:
        """L2-normalised features. (N, D)"""
        return normalize(self.x.float(), dim=-1)

    def to(self, device: torch.device | str) -> Pool:
        """The same pool on another device."""
        return Pool(self.x.to(device), self.learning)


def describe_pool(images: int, seen: int = 0, tests: int = 0, kind: str = "test") -> str:
    """What a result is whose heads saw a pool.

    Parameters
    ----------
    images : int
        How many are in the pool.
    seen : int
        How many of these are in the test split.
    tests : int
        Images of the test split.
    kind : {"test", "judged"}
        "judged" where folds of all labelled images take the place of a test split.

    Examples
    --------
    >>> describe_pool(549, 549, 549)
    'transductive: sees the 549 test images without their labels'
    >>> describe_pool(80)
    'semi-supervised: sees 80 further images without labels, none of them in the test split'
    """
    if not seen:
        return (
            f"semi-supervised: sees {images:,} further images without labels, none of them "
            f"{'in the test split' if kind == 'test' else 'among the judged images'}"
        )
    which = f"the {seen:,}" if seen == tests else f"{seen:,} of the {tests:,}"
    more = f", and {images - seen:,} further images" if images > seen else ""
    return f"transductive: sees {which} {kind} images without their labels{more}"


def kind_of(learning: str | None) -> str:
    """`inductive`, `transductive` or `semi-supervised`: results of two kinds are never ranked."""
    return (learning or INDUCTIVE).partition(":")[0]


def join_learning(words: Sequence[str | None]) -> str:
    """What an average is of results of one kind, which may have seen different numbers of images.

    Examples
    --------
    >>> join_learning([describe_pool(9, 9, 9), describe_pool(5, 5, 5)]).partition("; or ")[2]
    'sees the 5 test images without their labels'
    """
    told = list(dict.fromkeys(word or INDUCTIVE for word in words))
    details = [word.partition(": ")[2] for word in told]
    return told[0] if len(told) == 1 else f"{kind_of(told[0])}: {'; or '.join(details)}"


def load_pool(
    cache: FeatureCache,
    pool: Pool | FeatureCache | Path | str | None = None,
    judged: Sequence[str] = ("test",),
) -> Pool | None:
    """The unlabelled images that are meant; their labels are not read.

    Parameters
    ----------
    cache : FeatureCache
        What is fitted on.
    pool : Pool, FeatureCache, Path or str, optional
        "test" is the test split of `cache`; a cache, its file or its name is all of its images;
        None and "none" are no pool.
    judged : sequence of str
        The splits whose images judge the heads.

    Returns
    -------
    Pool or None
        It says how many of its images are in the test split of `cache`, by their ids and by their
        features.

    Raises
    ------
    InputError
        If the cache has no test split.
    CacheMismatchError
        If the features are of another encoder. The difference is named.
    """
    if pool is None or pool == "none":
        return None
    if pool == "test":
        tests = cache.counts.get("test")
        if tests is None:
            raise InputError(
                f"cache '{cache.path}' has no test split to take for a pool; name a cache."
            )
        return Pool(_read(cache, "test"), describe_pool(tests, tests, tests))
    judged = [split for split in judged if split in cache.counts]
    if isinstance(pool, Pool):
        _check_width(cache, pool.x.shape[1], "the pool")
        if pool.learning != describe_pool(len(pool)):  # somebody has said what it is
            return pool
        is_test = shared_by_features(cache, pool.x, judged)
        return Pool(pool.x, _describe(cache, is_test, judged))
    other = FeatureCache.open(pool)
    check_pool_encoder(cache, other)
    x = torch.cat([_read(other, split) for split in other.counts])
    is_test = shared_by_features(cache, x, judged) | _shared_by_name(cache, other, judged)
    return Pool(x, _describe(cache, is_test, judged))


def _describe(cache: FeatureCache, is_test: Tensor, judged: Sequence[str]) -> str:
    """What a result is that saw images, some of which are test images. (N,)"""
    tests = sum(cache.counts[split] for split in judged)
    kind = "test" if list(judged) in ([], ["test"]) else "judged"
    return describe_pool(len(is_test), int(is_test.sum()), tests, kind)


def _read(cache: FeatureCache, split: str) -> Tensor:
    """Features of a split, and nothing else of it. (N, D)"""
    large = cache.counts[split] * cache.width > LARGE
    arrays = cache.read(split, views=False, dtype=None if large else np.float32)
    return torch.from_numpy(arrays.features)


def _check_width(cache: FeatureCache, width: int, name: str) -> None:
    if width != cache.width:
        raise CacheMismatchError(
            f"{name} has features of width {width}, and '{cache_name(cache.path)}' of "
            f"{cache.width}; a pool must be of the same encoder."
        )


def check_pool_encoder(cache: FeatureCache, other: FeatureCache) -> None:
    """Refuse a pool of another encoder."""
    _check_width(cache, other.width, f"'{cache_name(other.path)}'")
    if different := encoder_difference(*_encoder(other), *_encoder(cache)):
        raise CacheMismatchError(
            f"the pool '{cache_name(other.path)}' cannot be used with "
            f"'{cache_name(cache.path)}': {different}; extract it with the same encoder."
        )


def _encoder(cache: FeatureCache) -> tuple[Key, str]:
    return cache.header.key, f"{cache.header.model}.{cache.header.pretrained}"


def shared_by_features(cache: FeatureCache, x: Tensor, judged: Sequence[str]) -> Tensor:
    """Which raw features are those of an image in some splits. (N,)"""
    if not judged:
        return torch.zeros(len(x), dtype=torch.bool)
    test = torch.cat([normalize(_read(cache, split).float(), dim=-1) for split in judged])
    blocks = torch.split(x.cpu(), max(1, _BLOCK // len(test)))
    return torch.cat([are_copies(block, test) for block in blocks])


def _shared_by_name(cache: FeatureCache, other: FeatureCache, judged: Sequence[str]) -> Tensor:
    """Which images of another cache are in some splits: by their files, or by ids. (N,)"""
    shared = torch.zeros(sum(other.counts.values()), dtype=torch.bool)
    for names_of in (_digests, _ids) if _same_dataset(cache, other) else (_digests,):
        known = {name for split in judged for name in names_of(cache, split) if name}
        names = [name for split in other.counts for name in names_of(other, split)]
        shared |= torch.tensor([name in known for name in names])
    return shared


def _same_dataset(cache: FeatureCache, other: FeatureCache) -> bool:
    """Whether ids of two caches mean the same images."""
    return cache.header.dataset == other.header.dataset


def are_copies(x: Tensor, unit: Tensor) -> Tensor:
    """Whether images of raw features (n, D) are among those of unit features (m, D). (n,)"""
    return (normalize(x.float(), dim=-1) @ unit.mT).amax(dim=1) >= SAME


def _ids(cache: FeatureCache, split: str) -> Sequence[str | bytes]:
    return cache.ids(split)


def _digests(cache: FeatureCache, split: str) -> Sequence[str | bytes]:
    """SHA-256 of the images' files; empty where it is not known."""
    files = cache.files(split)
    if files is None:
        return [b""] * cache.counts[split]
    return [state.tobytes() if state.any() else b"" for state in files["sha256"]]
