"""Hyper-parameters as people pass them: numbers within bounds, or one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable

from cafe.errors import InputError


def check_positive(name: str, value: float) -> float:
    """A finite number above 0, or an `InputError`."""
    return _check(name, value, "a number above 0", lambda number: 0 < number < math.inf)


def check_not_negative(name: str, value: float) -> float:
    """A finite number of at least 0, or an `InputError`."""
    return _check(name, value, "a number of at least 0", lambda number: 0 <= number < math.inf)


def check_share(name: str, value: float) -> float:
    """A number from 0 to 1, or an `InputError`."""
    return _check(name, value, "a number from 0 to 1", lambda number: 0 <= number <= 1)


def check_count(name: str, value: int) -> int:
    """A whole number of at least 1, or an `InputError`."""

    def fits(number: float) -> bool:
        return 1 <= number < math.inf and number == int(number) and not isinstance(value, bool)

    return int(_check(name, value, "a whole number of at least 1", fits))


def check_ratio(ratio: float | str) -> float:
    """The ratio of an adapter, or an `InputError`."""
    allowed = "from 0 (zero-shot) to 1, 'learn' or 'auto'"
    return _check("ratio", ratio, allowed, lambda number: 0 <= number <= 1)


def _check(name: str, value: float | str, allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan  # fits no bounds
    if not fits(number):
        raise InputError(f"{name} must be {allowed}; got {value}.")
    return number
