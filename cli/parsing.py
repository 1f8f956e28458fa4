"""How the words of options are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.features.splits import Shots
    from cafe.results.runs import HeadSelector


def without_none(**values: Any) -> dict[str, Any]:
    """The options that were given; the library has the defaults of the others."""
    return {name: value for name, value in values.items() if value is not None}


def parse_shots(text: str) -> list[Shots]:
    """Read "16", "1,2,4" or "all"."""
    return [
        "all" if word.strip() == "all" else _integer(word, f"--shots {text}", _SHOTS_FORM)
        for word in text.split(",")
    ]


_SHOTS_FORM = "whole numbers, or 'all'"
_SEEDS_FORM = "a count such as 3, or a list such as 0,5,7"


def parse_seeds(text: str) -> list[int]:
    """Read a count ("3" is the seeds 0, 1, 2) or a list ("0,5,7")."""
    seeds = [_integer(word, f"--seeds {text}", _SEEDS_FORM) for word in text.split(",")]
    if len(seeds) == 1:
        if seeds[0] < 1:
            raise InputError(f"--seeds {text}: at least one seed is needed.")
        return list(range(seeds[0]))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text} names a seed twice.")
    return seeds


def _integer(word: str, option: str, form: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{option}: '{word}' is not understood; give {form}.") from None


def parse_head_selector(method: str | None, shots: str | None, seed: int | None) -> HeadSelector:
    """Which head of a run the options mean."""
    from cafe.results.runs import HeadSelector

    counts = [None] if shots is None else parse_shots(shots)
    if len(counts) > 1:
        raise InputError(f"--shots {shots}: one shot count picks one head.")
    return HeadSelector(method, counts[0], seed)


def parse_models(text: str) -> list[str]:
    """Read "nano,ViT-B-32"."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InputError(f"--model '{text}' names no encoder.")
    return names


def parse_context(text: str | None) -> list[float] | None:
    """Read "1,1.5", the sides of a box's crops; None where nothing was given."""
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            f"--context {text} is not understood; give numbers such as 1,1.5."
        ) from None


def parse_methods(given: list[str] | None) -> list[str] | None:
    """Read "gda,tip-adapter", given once or several times; None where nothing was given."""
    names = [name.strip() for text in given or () for name in text.split(",") if name.strip()]
    if given and not names:
        raise InputError("--method names no method; 'cafe methods' lists them.")
    return names or None


def parse_ratio(text: str | None) -> dict[str, Any]:
    """Read "0.2", "learn", or candidates "0.1,0.2,0.4", as settings of the adapter."""
    if text is None or "," not in text:
        return {"ratio": text and _number_or_word(text)}
    return {"ratios": [_number_or_word(word) for word in text.split(",")]}


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def parse_prompt(text: str | None) -> int | str | None:
    """Read "16", a count of learned words, or the words to start from."""
    return int(text) if text is not None and text.strip().isdecimal() else text


def parse_bytes(text: str) -> int:
    """Read "2GB", "500MB" or a plain number of bytes."""
    number, factor = text.strip().upper(), 1
    for suffix, size in (("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12)):
        if number.endswith(suffix):
            number, factor = number.removesuffix(suffix), size
    try:
        count = int(float(number) * factor)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(f"--memory {text} is not understood; give a size such as 500MB or 2GB.")
    return count
