"""Self-training of a study: the proposals beside a cache, and in words what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cafe.errors import CacheMismatchError, CacheNotFoundError, counted, verb
from cafe.features.pool import shared_by_features
from cafe.features.task import image_of
from cafe.features.tensors import LARGE
from cafe.methods.self_training import PARAM, SETTING, SelfTraining
from cafe.results.result import Result
from cafe.store import FeatureCache
from cafe.store.key import differences
from cafe.store.paths import cache_name, proposals_path

_OF_DATASET = (
    "augmentation",
    "class_names_sha256",
    "dataset",
    "dataset_sha256",
    "sentences_sha256",
    "templates",
    "tokens_sha256",
)
"""Parts of a key in which the cache of proposals may differ: all else makes their features."""


def self_training(
    cache: FeatureCache,
    methods: Sequence[str],
    most: int | None,
    rounds: int = 1,
    proposals: FeatureCache | Path | str | None = None,
) -> dict[str, Any]:
    """The setting by which methods train themselves; empty where they shall not.

    Parameters
    ----------
    cache : FeatureCache
        What is fitted on.
    methods : sequence of str
        The methods that do it.
    most : int or None
        Pseudo-shots of each class at most; None is no self-training.
    rounds : int
        Rounds at most.
    proposals : FeatureCache, Path or str, optional
        The cache of proposals without labels; None is the one that 'cafe extract --proposals'
        wrote beside `cache`.

    Raises
    ------
    CacheNotFoundError
        If there is no such cache.
    CacheMismatchError
        If it is of another encoder or other crops, which is named; or if proposals lie on
        validation or test images of `cache`.
    InputError
        If a number is below 1.
    """
    if most is None:
        return {}
    pool = load_proposals(cache, proposals)
    return {SETTING: SelfTraining(pool, most, rounds, tuple(methods))}


def load_proposals(
    cache: FeatureCache, proposals: FeatureCache | Path | str | None = None
) -> Tensor:
    """Raw features of the proposals without labels; labels of their cache are not read. (N, D)"""
    path = proposals_path(cache.path)
    if proposals is None and not path.is_file():
        raise CacheNotFoundError(
            f"self-training needs proposals without labels, and there is no '{path}'; 'cafe "
            "extract --boxes FILE --proposals FILE' makes it, or name a cache."
        )
    other = FeatureCache.open(path if proposals is None else proposals)
    keys = [
        {part: value for part, value in each.header.key.items() if part not in _OF_DATASET}
        for each in (other, cache)
    ]
    if different := differences(*keys):
        raise CacheMismatchError(
            f"the proposals '{cache_name(other.path)}' are not for '{cache_name(cache.path)}': "
            f"{different[0]}; extract them with the same encoder and --context."
        )
    kept = None if sum(other.counts.values()) * other.width > LARGE else np.float32
    parts = [other.read(split, views=False, dtype=kept).features for split in other.counts]
    x = torch.from_numpy(np.concatenate(parts))
    _check_apart(cache, other, x)
    return x


def _check_apart(cache: FeatureCache, other: FeatureCache, x: Tensor) -> None:
    """Refuse proposals on images that judge the heads: the labels may be newer than they are."""
    judging = [split for split in cache.counts if split != "train"]
    if not judging:
        return
    shared = shared_by_features(cache, x, judging)
    if other.header.dataset in (cache.header.dataset, f"{cache.header.dataset}-proposals"):
        judged = {image_of(name) for split in judging for name in cache.ids(split)}
        names = [name for split in other.counts for name in other.ids(split)]
        shared |= torch.tensor([image_of(name) in judged for name in names])
    if count := int(shared.sum()):
        raise CacheMismatchError(
            f"{count:,} of the {counted(len(x), 'proposal')} of '{cache_name(other.path)}' "
            f"{verb(count, 'are')} on validation or test images of '{cache_name(cache.path)}'; "
            "extract the proposals again, or name a cache of other images."
        )


def describe_self_training(settings: Mapping[str, Any]) -> list[str]:
    """What a protocol says of self-training; nothing where there is none."""
    training: SelfTraining | None = settings.get(SETTING)
    if training is None:
        return []
    most, rounds = counted(training.most, "proposal"), counted(training.rounds, "round")
    return [
        f"Self-training: the likeliest {most} of each class among {len(training.pool):,} without a "
        f"label, none of them of the test split, join its shots, for {rounds} at most; kept where "
        "held-out shots say that it helps."
    ]


def what_happened(results: Sequence[Result]) -> list[str]:
    """What self-training did, a line for each result that it was tried for."""
    lines = []
    for result in results:
        heads = result.params.get(PARAM)
        if heads is not None:
            listed = heads if isinstance(heads, list) else [heads]
            name = f"{result.method}, {counted(result.shots, 'shot')}"
            lines.append(f"self-training of {name}: {_outcome(listed)}")
    return lines


def _outcome(heads: Sequence[Mapping[str, Any]]) -> str:
    """What became of the heads of all seeds (equal ones may be given once)."""
    if not any(head["held_out"] for head in heads):
        return "not kept, as no shot was left to hold out."
    kept = [head for head in heads if head["kept"]]
    plain = np.mean([head["accuracy"][0] for head in heads])
    # of what is not kept, the best that was tried
    best = np.mean(
        [
            head["accuracy"][head["kept"]] if head["kept"] else max(head["accuracy"][1:])
            for head in heads
        ]
    )
    which = "kept" if len(kept) == len(heads) else f"kept with {len(kept)} of {len(heads)} seeds"
    which = which if kept else "not kept"
    return (
        f"{which}; {plain:.1f} % of held-out shots right without it, {best:.1f} % with it "
        f"({counted(max(h['taken'] for h in heads), 'pseudo-shot')})."
    )
