"""Weighted prompts of a study: refused where they mean nothing, and told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.errors import InputError, verb
from cafe.features.tensors import ClassText
from cafe.methods.catalog import find_method
from cafe.methods.prompt_weighting import GAMMA, SETTING, TIMO, is_weighted


def check_weighting(
    text: ClassText, methods: Sequence[str], settings: Mapping[str, Any], name: str
) -> None:
    """Refuse a weighting that means nothing.

    Parameters
    ----------
    text, methods, settings, name
        As of `cafe.study.equal_texts.check_texts`.

    Raises
    ------
    InputError
        If it is unknown, every class has one prompt, or no method takes class weights.
    """
    asked = settings.get(SETTING)
    if asked is None:
        return
    if asked != TIMO:
        raise InputError(f"prompts_weighting must be '{TIMO}'; got '{asked}'.")
    prompts = int(text.features.any(dim=-1).sum(dim=-1).max())
    if prompts < 2:
        raise InputError(
            f"prompts_weighting='{asked}' weighs several prompts of a class, and {name} has "
            f"{'one a class' if prompts else 'none'}; extract it again with several templates, or "
            "leave it out."
        )
    if not any(is_weighted(find_method(method), settings) for method in methods):
        raise InputError(
            f"prompts_weighting='{asked}' is for methods that take class weights, which "
            f"{', '.join(methods)} {verb(len(methods), 'do')} not; take auto or another."
        )


def weighting_in_words(settings: Mapping[str, Any]) -> list[str]:
    """What a protocol says of it; nothing where there is none."""
    if settings.get(SETTING) is None:
        return []
    return [
        f"Prompts of a class are weighted by its shots (TIMO, gamma {GAMMA:g}) for every method "
        "that takes class weights, not for zero-shot."
    ]
