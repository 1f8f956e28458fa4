"""`--class-balance`: how many pool images are of each class."""

from __future__ import annotations

import json
from pathlib import Path

from cafe.errors import InputError, raise_as


def read_class_balance(word: str | None) -> dict[str, float] | str | None:
    """Read "uniform" or a JSON file: class name -> number."""
    if word is None or word == "uniform":
        return word
    form = f"--class-balance {word}: give 'uniform', or a JSON file of class names with numbers"
    with raise_as(InputError, form):
        text = Path(word).read_bytes()
    try:
        balance = json.loads(text)
    except ValueError as error:
        raise InputError(f"{form} ({error}).") from None
    if not isinstance(balance, dict) or not all(map(_is_number, balance.values())):
        raise InputError(f"{form}.")
    return balance


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
