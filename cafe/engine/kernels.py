"""Fused passes of a training step on a CPU, in C++; see `cafe.compiled`."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cafe.compiled import load_library

SOURCE = Path(__file__).with_name("visual.cpp")
INCLUDED = SOURCE.with_name("tiles.h"), SOURCE.with_name("kernels.cpp")


class Kernels:
    """The functions of `kernels.cpp` and `visual.cpp`.

    Parameters
    ----------
    library : ctypes.CDLL
        What was built; a call lets other Python threads run.

    Attributes
    ----------
    tiles : bool
        Whether the processor and the system let this process multiply tiles (AMX).
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.tiles = bool(library.has_tiles())

    def __call__(self, name: str, dtype: torch.dtype, *arguments: Tensor | float) -> None:
        """Call a function for a type of products; tensors lie in one piece on the CPU."""
        function = getattr(self._library, f"{name}_{str(dtype).removeprefix('torch.')}")
        function(*map(_as_c, arguments))


def _as_c(argument: Tensor | float) -> ctypes.c_void_p | ctypes.c_long | ctypes.c_float:
    if isinstance(argument, Tensor):
        if not argument.is_contiguous():
            raise ValueError(f"a tensor of strides {argument.stride()} lies in pieces.")
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_float(argument)


@lru_cache(maxsize=1)
def load_kernels() -> Kernels | None:
    """The kernels; None where they cannot be built."""
    library = load_library(SOURCE, *INCLUDED)
    return None if library is None else Kernels(library)
