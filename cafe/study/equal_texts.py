"""Classes without text, or of equal texts: what a study refuses or leaves out for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.errors import InputError, counted, verb
from cafe.features.tensors import ClassText
from cafe.methods.catalog import BASELINES, CATALOG, find_method, methods_that_need

_SHOWN = 3


def check_texts(
    text: ClassText, methods: Sequence[str], settings: Mapping[str, Any], name: str
) -> None:
    """Refuse methods that need text where there is none, or texts that are equal for some classes.

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
    if len(text.each) > 1:  # zero-shot takes those encoders that tell the classes apart
        others = [method for method in methods if method != "zero-shot"]
        for part in text.each:
            check_texts(part, others, settings, name)
        return
    if not text.has_text and (needing := without_text(methods, settings)):
        raise InputError(
            f"{_some(needing)} {verb(len(needing), 'need')} text of the classes, which the cache "
            f"of {name} has none of; take methods that need none: "
            f"{', '.join(m for m in methods_that_need('') if m not in without_text([m]))}."
        )
    readers = [method for method in methods if find_method(method).reads_text(settings)]
    if not readers or not text.equal:
        return
    others = [method for method in CATALOG if not find_method(method).reads_text({})]
    raise InputError(
        f"{_same_in_words(text)} of {name} have equal text features, which {_some(readers)} cannot "
        "tell apart; give each class sentences of its own, short enough for the encoder, "
        f"and extract or import again, or take methods that read no text: {', '.join(others)}."
    )


def without_text(methods: Sequence[str], settings: Mapping[str, Any] | None = None) -> list[str]:
    """Those of some methods that cannot do without text of the classes."""
    return [name for name in methods if find_method(name).needs_text(settings or {})]


def choose_baselines(text: ClassText, methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """The baselines beside some methods, and a sentence on what is left out of them.

    A baseline that nobody asked for does not stand in the way of methods that read no text.
    """
    if any(part.tells_apart for part in text.each):
        return list(BASELINES), []
    kept = [name for name in BASELINES if name in methods or not without_text([name])]
    left_out = [name for name in BASELINES if name not in kept]
    reason = "there is no text of the classes"
    if text.has_text:
        reason = f"{_same_in_words(text)} have equal text features"
    why = f"{', '.join(left_out)} is left out: {reason}."
    return kept, [why] if left_out else []


def _same_in_words(text: ClassText) -> str:
    first, others = text.equal[0], len(text.equal) - 1
    names = _some([f"{index} '{text.names[index]}'" for index in first])
    return f"classes {names}" + (f" (and {counted(others, 'other group')})" if others else "")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
