"""Fused passes of a training step on a CPU, from `kernels.cpp`; built where there is a compiler.

They are built once for a machine, in about a second, and kept in the user's cache folder. Whatever
goes wrong on the way, training goes on without them. `CAFE_KERNELS=0` does without, too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cafe.devices import user_cache_folder

SOURCE = Path(__file__).with_name("kernels.cpp")

# sums may be reordered, for vectors; NaN keeps its meaning, so that what diverges shows
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
    *("-fopenmp-simd", "-shared", "-fPIC"),  # of OpenMP its vectors, not its threads
)


class Kernels:
    """The functions of `kernels.cpp`.

    Parameters
    ----------
    library : ctypes.CDLL
        What was built; a call lets other Python threads run.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

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
    """The kernels; None where there is no compiler, where it fails, or where it is told not to."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if os.environ.get("CAFE_KERNELS") == "0" or compiler is None:
        return None
    try:
        return Kernels(ctypes.CDLL(str(_built(compiler))))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(compiler: str) -> Path:
    """The library for this machine, built where it is not there yet."""
    wide = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
    command = [compiler, *FLAGS, *wide, str(SOURCE), "-o"]
    known = [SOURCE.read_text(encoding="utf-8"), _instructions(), *command]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    library = user_cache_folder() / f"kernels-{digest}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, library.name)
            subprocess.run([*command, str(built)], check=True, capture_output=True, timeout=120)  # noqa: S603
            built.replace(library)  # in one step: another process may build it too
    return library


def _instructions() -> str:
    """What the processor can do: homes are shared by unlike machines."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.processor() + platform.machine())
