"""A pool of unlabelled images in a study: which methods take it, and what their results are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.errors import InputError, counted
from cafe.features.pool import INDUCTIVE, Pool, kind_of, load_pool
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.self_training import SETTING
from cafe.methods.transductive.lda_prior_pooled import FEW_WORDS
from cafe.results.result import Result
from cafe.store import FeatureCache

PoolLike = Pool | FeatureCache | Path | str
"""A pool, "test" for the test split of the cache that is fitted on, "none", or another cache."""


def takes_pool(method: str) -> bool:
    """Whether a method looks at unlabelled images where there are some."""
    return "pool" in find_method(method).settings()


def pool_settings(
    cache: FeatureCache,
    pool: PoolLike | None,
    methods: Sequence[str],
    judged: Sequence[str] = ("test",),
) -> dict[str, Any]:
    """The pool as a setting of the methods; none where there is none.

    Raises
    ------
    InputError
        If none of the methods would look at it, or one needs it and there is none.
    """
    for name in methods:
        if pool in (None, "none") and find_method(name).needs == "pool":
            raise InputError(
                f"{name} learns from images without labels and has none; give pool=test "
                "or pool=CACHE."
            )
    loaded = load_pool(cache, pool, judged)
    if loaded is None:
        return {}
    if not any(map(takes_pool, methods)):
        raise InputError(
            f"{', '.join(methods)} would not look at a pool; take one of "
            f"{', '.join(filter(takes_pool, CATALOG))}, or pool=none."
        )
    return {"pool": loaded}


def trainable(methods: Sequence[str], pool: PoolLike | None, default: Sequence[str]) -> list[str]:
    """The methods of which `cafe.train` keeps the best: with a pool, those that look at it.

    Raises
    ------
    InputError
        If the pool is the test split, which is trained on, or methods of two kinds are named.
    """
    if pool is None or pool == "none":
        return list(methods)
    if pool == "test":
        raise InputError(
            "training takes every labelled image, those of the test split too; name a cache of "
            "other images with pool=."
        )
    taking = [name for name in methods if takes_pool(name)]
    if taking != list(methods) and list(methods) != list(default):
        others = ", ".join(name for name in methods if not takes_pool(name))
        raise InputError(
            f"{others} would not look at the pool, and results with and without one are never "
            "ranked; name methods of one kind."
        )
    return taking


def learning_of(method: str, settings: Mapping[str, Any]) -> str:
    """What a result of a method is under settings: `inductive`, or what it saw in words."""
    pool, training = settings.get("pool"), settings.get(SETTING)
    if isinstance(pool, Pool) and takes_pool(method):
        return pool.learning
    return training.learning if training and method in training.methods else INDUCTIVE


def learning_in_words(methods: Sequence[str], settings: Mapping[str, Any]) -> str:
    """In a clause, what all results of a study are."""
    groups: dict[str, list[str]] = {}
    for method in methods:
        groups.setdefault(learning_of(method, settings), []).append(method)
    if [*groups] == [INDUCTIVE]:
        return INDUCTIVE
    return "; ".join(f"{', '.join(names)} {words}" for words, names in groups.items())


def few_class_notes(results: Sequence[Result]) -> list[str]:
    """In a sentence, which heads took their pool for one of few classes."""
    found = [r for r in results if kind_of(r.learning) != INDUCTIVE]
    return [
        f"{r.method}, {counted(r.shots, 'shot')}: {FEW_WORDS}."
        for r in found
        if any(took_few(head.params) for head in r.heads)
    ]


def took_few(params: Mapping[str, Any]) -> bool:
    """Whether a head of these params, or a member of it, took its pool for one of few classes."""
    parts = [params, *params.get("members", ())]
    encoders = [encoder["params"] for encoder in params.get("encoders", ())]
    return any(part.get("few_classes", False) for part in parts) or any(map(took_few, encoders))
