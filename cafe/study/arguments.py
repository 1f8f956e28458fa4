"""How the arguments that `fit`, `grid`, `compare` and `meta_train` share are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.errors import InputError
from cafe.features.splits import Shots
from cafe.methods.catalog import find_method
from cafe.store import FeatureCache

COMMON_SETTINGS = ("ratio", "bottleneck", "epochs", "lr", "weight_decay", "batch_size")
"""Hyper-parameters that `fit`, `compare` and `AdapterClassifier` name in their signatures."""


def open_caches(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None,
) -> list[FeatureCache]:
    """Open one cache or several, each as `FeatureCache.open` does."""
    if caches is None or isinstance(caches, FeatureCache | Path | str):
        return [FeatureCache.open(caches)]
    return [FeatureCache.open(cache) for cache in caches]


def resolve_shots(
    shots: Shots | Sequence[Shots] | None, default: Sequence[Shots] = ()
) -> list[Shots]:
    """One shot count or several as a list, each once; None takes the default."""
    if shots is None:
        return list(default)
    return [shots] if isinstance(shots, int | str) else list(dict.fromkeys(shots))


def resolve_seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant: a count n is 0 to n - 1, a sequence is itself.

    Raises
    ------
    InputError
        If there is none, one is negative, or one is named twice.
    """
    resolved = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not resolved:
        raise InputError(f"at least one seed is needed; got seeds {seeds}.")
    if min(resolved) < 0:
        raise InputError(f"seeds must be at least 0; got {min(resolved)}.")
    if len(set(resolved)) < len(resolved):
        raise InputError(f"a seed is named twice in {', '.join(map(str, resolved))}.")
    return resolved


def resolve_settings(
    methods: Sequence[str], common: Sequence[Any], special: Mapping[str, Any]
) -> dict[str, Any]:
    """The hyper-parameters that are set, by name.

    Parameters
    ----------
    methods : sequence of str
    common : sequence
        A value for each of `COMMON_SETTINGS`; None takes the method's own.
    special : mapping
        Those of one method alone.

    Raises
    ------
    InputError
        If one is known to none of the methods: it would change nothing.
    """
    pairs = zip(COMMON_SETTINGS, common, strict=True)
    settings = {name: value for name, value in pairs if value is not None} | dict(special)
    known = {name for method in methods for name in find_method(method).settings()}
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise InputError(
            f"{', '.join(methods)} has no setting '{unknown[0]}'; it has "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return settings
