"""Hyper-parameters as people pass them: numbers within bounds, or one clear line."""

from __future__ import annotations

import math

from cafe.errors import InputError


def check_positive(name: str, value: float) -> float:
    """A finite number above 0, or a refusal.

    Raises
    ------
    InputError
        If it is none.
    """
    number = _number(value)
    if not 0 < number < math.inf:
        raise InputError(f"{name} must be a number above 0; got {value}.")
    return number


def check_not_negative(name: str, value: float) -> float:
    """A finite number of at least 0, or a refusal.

    Raises
    ------
    InputError
        If it is none.
    """
    number = _number(value)
    if not 0 <= number < math.inf:
        raise InputError(f"{name} must be a number of at least 0; got {value}.")
    return number


def check_share(name: str, value: float) -> float:
    """A number from 0 to 1, or a refusal.

    Raises
    ------
    InputError
        If it is none.
    """
    number = _number(value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} must be a number from 0 to 1; got {value}.")
    return number


def check_count(name: str, value: int) -> int:
    """A whole number of at least 1, or a refusal.

    Raises
    ------
    InputError
        If it is none.
    """
    number = _number(value)
    if isinstance(value, bool) or not 1 <= number < math.inf or number != int(number):
        raise InputError(f"{name} must be a whole number of at least 1; got {value}.")
    return int(number)


def check_ratio(ratio: float | str) -> float:
    """A ratio of an adapter, or a refusal.

    Raises
    ------
    InputError
        If it is no number from 0 to 1.
    """
    number = _number(ratio)
    if not 0 <= number <= 1:
        raise InputError(f"ratio must be from 0 (zero-shot) to 1, 'learn' or 'auto'; got {ratio}.")
    return number


def _number(value: float | str) -> float:
    """NaN where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
