"""The precision of matrix products, by what the machine is fast at; weights are always float32."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal

import torch

from cafe.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]

WORTH_IT = 1.5
"""bfloat16 is taken where its products are this many times faster: they are emulated on a
processor without AVX512-BF16 or AMX, and slower than float32 there."""


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
    return "bf16" if bf16_speedup(device) >= WORTH_IT else "fp32"


@lru_cache(maxsize=8)
def bf16_speedup(device: torch.device) -> float:
    """How many times faster bfloat16 products are than float32 ones, measured in milliseconds."""
    fp32 = product_rate(device, torch.float32)
    return product_rate(device, torch.bfloat16) / fp32


def product_rate(
    device: torch.device, dtype: torch.dtype, size: int = 512, tries: int = 5
) -> float:
    """Measured rate of square matrix products, the best of a few tries.

    Parameters
    ----------
    device : torch.device
        Where to measure.
    dtype : torch.dtype
        Type of the operands.
    size : int
        Rows and columns of both operands.
    tries : int
        How often to measure, after one try that warms up.

    Returns
    -------
    float
        Floating-point operations per second.
    """
    a = torch.ones(size, size, dtype=dtype, device=device)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(tries + 1):
        start = time.perf_counter()
        for _ in range(4):
            torch.mm(a, a, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * size**3 / best
