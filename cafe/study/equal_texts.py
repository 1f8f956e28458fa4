"""Classes whose texts are equal: what a study refuses or leaves out for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.errors import InputError, counted
from cafe.features.tensors import ClassText
from cafe.methods.catalog import BASELINES, CATALOG, find_method

_SHOWN = 3


def check_texts(
    text: ClassText, methods: Sequence[str], settings: Mapping[str, Any], name: str
) -> None:
    """Refuse methods that read texts which are equal for some classes.

    Parameters
    ----------
    text : ClassText
    methods : sequence of str
        Names of the catalog.
    settings : mapping
        Their hyper-parameters.
    name : str
        Whose classes these are, for the error.

    Raises
    ------
    InputError
        If there are such methods and such classes, which are named.
    """
    readers = [method for method in methods if find_method(method).reads_text(settings)]
    if not readers or not text.equal:
        return
    others = [method for method in CATALOG if not find_method(method).reads_text({})]
    raise InputError(
        f"{_same_in_words(text)} of {name} have equal text features, which {_some(readers)} cannot "
        "tell apart; give each class sentences of its own, short enough for the encoder, "
        f"and extract or import again, or take methods that read no text: {', '.join(others)}."
    )


def choose_baselines(text: ClassText, methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """The baselines beside some methods, and a sentence on what is left out of them.

    A baseline that nobody asked for does not stand in the way of methods that read no text.
    """
    if not text.equal:
        return list(BASELINES), []
    kept = [name for name in BASELINES if name in methods or not find_method(name).reads_text({})]
    left_out = [name for name in BASELINES if name not in kept]
    why = f"{', '.join(left_out)} is left out: {_same_in_words(text)} have equal text features."
    return kept, [why] if left_out else []


def _same_in_words(text: ClassText) -> str:
    first, others = text.equal[0], len(text.equal) - 1
    names = _some([f"{index} '{text.names[index]}'" for index in first])
    return f"classes {names}" + (f" (and {counted(others, 'other group')})" if others else "")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
