"""The order of classes that are known by name alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

_NUMBER = re.compile(r"\s*([+-]?\d+(?:[.,]\d+)?)(.*)", re.DOTALL)
_SHOWN = 4


def in_class_order(names: Iterable[str]) -> list[str]:
    """Sort names: by value where each is a number or begins with one, else by their letters.

    Parameters
    ----------
    names : iterable of str
        Names of folders or labels. One that is there twice is given once.

    Examples
    --------
    >>> in_class_order(["10", "9", "-1", "1.5"])
    ['-1', '1.5', '9', '10']
    >>> in_class_order(["10-19", "0-9", "100 and more"])
    ['0-9', '10-19', '100 and more']
    >>> in_class_order(["10", "9", "none"])
    ['10', '9', 'none']
    """
    in_order = sorted(set(names))
    numbers = [_NUMBER.fullmatch(name) for name in in_order]
    if not all(numbers):
        return in_order
    keys = {match[0]: (Decimal(match[1].replace(",", ".")), match[2]) for match in numbers if match}
    return sorted(in_order, key=lambda name: (keys[name], name))


def has_two_orders(names: Iterable[str]) -> bool:
    """Whether people would count names that are sorted as text: `class 10` before `class 2`."""
    in_order = in_class_order(names)
    parts = [re.split(r"(\d{1,18})", name) for name in in_order]  # text and digits in turn
    counted = [[int(p) if place % 2 else p for place, p in enumerate(row)] for row in parts]
    begins_with_number = all(map(_NUMBER.fullmatch, in_order))
    return not begins_with_number and counted != sorted(counted)


def first_pairs(keys: Sequence[str], names: Sequence[str]) -> str:
    """The first few of names that were given in the order of some keys, for a note.

    Examples
    --------
    >>> first_pairs(["0", "1", "2", "10", "11"], ["zero", "one", "two", "ten", "eleven"])
    '0 -> zero, 1 -> one, 2 -> two, 10 -> ten, ...'
    """
    pairs = [f"{key} -> {name}" for key, name in zip(keys, names, strict=True)]
    return ", ".join(pairs[:_SHOWN]) + (", ..." if len(pairs) > _SHOWN else "")
