"""Class texts under learned words, taken from a saved head of a method that learns them."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import InputError
from cafe.features.tensors import ClassText


def learned_text(file: Path | str, text: ClassText) -> ClassText:
    """A cache's class texts with those of a saved head in their place.

    Parameters
    ----------
    file : Path or str
        The head's file, of `coop` or `cpl`; no code in it is run.
    text : ClassText
        The classes that are asked for.

    Raises
    ------
    InputError
        If it is no such file, or of other classes or another width.
    """
    weights, names = _read(Path(file))
    if names != text.names or weights.shape != text.weights.shape:
        raise InputError(
            f"'{file}' has learned words for {len(names)} classes of width {weights.shape[-1]}; "
            f"here are {len(text.names)} of width {text.weights.shape[-1]}, or others by name: fit "
            "coop on this cache."
        )
    unit = normalize(weights.to(text.features), dim=-1)[:, None]  # (C, 1, D)
    return ClassText(unit, text.names, text.logit_scale, text.logit_bias)


def _read(file: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class weights and class names of a head. (C, D)"""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["cafe"])
            weights = opened.get_tensor("weights")
            learned = "context" in opened.keys()  # noqa: SIM118  it is no mapping
        method, names = about["method"], tuple(map(str, about["class_names"]))
    except (OSError, LookupError, ValueError, TypeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(
            f"'{file}' is no saved head with learned words ({reason}); 'cafe fit --method coop' "
            "saves one with its run."
        ) from error
    if not learned or weights.ndim != 2 or not weights.isfinite().all():
        raise InputError(
            f"'{file}' is a head of '{method}'; learned words are in one of coop or cpl."
        )
    return weights, names
