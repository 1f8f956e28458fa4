"""How many bytes the engine may take; knows nothing of what it holds."""

from __future__ import annotations

import os

import torch

FREE_SHARE = 0.5
"""Share of the free memory that is taken where no budget is given."""


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device.

    Parameters
    ----------
    device : torch.device
        CPU or CUDA; 4 GiB are assumed of any other kind.

    Returns
    -------
    int
        Free bytes now.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return 4 << 30


def budget_bytes(device: torch.device, budget: int | None) -> int:
    """Bytes that may be taken: the budget, or half of what is free where that is None."""
    return int(free_bytes(device) * FREE_SHARE) if budget is None else budget
