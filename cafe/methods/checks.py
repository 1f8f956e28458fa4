"""Hyper-parameters as people pass them: numbers within bounds, or one clear line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from cafe.errors import InputError

WIDEST = 4
"""Bottlenecks wider than this many times D are refused as typing errors."""


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


def parse_bottleneck(bottleneck: str | int, width: int) -> int:
    """H of a bottleneck as people write it.

    Parameters
    ----------
    bottleneck : str or int
        "D/4", "D", or a whole number.
    width : int
        D.

    Returns
    -------
    int
        H, at least 1 and at most 4 D.

    Raises
    ------
    InputError
        If it is no whole number, or out of these bounds.

    Examples
    --------
    >>> parse_bottleneck("D/4", 512)
    128
    """
    part, whole = bottleneck_word(bottleneck)
    hidden = int(whole) if whole else width // int(part or 1)
    if not 1 <= hidden <= WIDEST * width:
        raise InputError(
            f"bottleneck must be from 1 to {WIDEST * width} ({WIDEST} D); "
            f"'{bottleneck}' gives {hidden}."
        )
    return hidden


def bottleneck_word(bottleneck: str | int) -> tuple[str | None, str | None]:
    """The 4 of "D/4", or a whole number; its bounds are known with D.

    Raises
    ------
    InputError
        If it is neither.
    """
    word = str(bottleneck).strip().upper()
    match = re.fullmatch(r"D(?:/([1-9][0-9]*))?|([0-9]+)", word)
    if match is None or isinstance(bottleneck, bool):
        raise InputError(f"bottleneck must be a whole number or like D/4; got '{bottleneck}'.")
    return match[1], match[2]
