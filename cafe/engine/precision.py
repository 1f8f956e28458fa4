"""The precision of matrix products, by what the machine is fast at; weights are always float32."""

from __future__ import annotations

from typing import Literal

import torch

from cafe.devices import BF16_GAIN, bf16_speedup
from cafe.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision in force on a device.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        What was asked for; "auto" measures.
    device : torch.device
        Where products run.

    Returns
    -------
    {"fp32", "bf16"}
        The precision of matrix products.

    Raises
    ------
    InputError
        If `precision` is none of the three.
    """
    if precision in ("fp32", "bf16"):
        return precision
    if precision != "auto":
        raise InputError(f"precision must be auto, fp32 or bf16; got '{precision}'.")
    return "bf16" if bf16_speedup(device) >= BF16_GAIN else "fp32"
