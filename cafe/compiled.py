"""C++ that is built on the user's machine, where there is a compiler, and kept for the next run.

Whatever is built has a slower twin that gives the same. It takes about a second, once for a
machine, and goes into the user's cache folder. `CAFE_KERNELS=0` does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# sums may be reordered, for vectors; NaN keeps its meaning, so that what diverges shows
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
    *("-fopenmp-simd", "-shared", "-fPIC"),  # of OpenMP its vectors, not its threads
)


def user_cache_folder() -> Path:
    """What cafe keeps for a user between commands: `$XDG_CACHE_HOME/cafe` or `~/.cache/cafe`.

    A relative `XDG_CACHE_HOME` is ignored, as the XDG Base Directory Specification says.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "cafe"


def load_library(source: Path, *included: Path, build: bool = True) -> ctypes.CDLL | None:
    """Load what was built of a source file; a call of its functions lets other threads run.

    Parameters
    ----------
    source : Path
        A C++ file.
    *included : Path
        Files of ours that it includes.
    build : bool
        Whether to build it where that was not done yet.

    Returns
    -------
    ctypes.CDLL or None
        None where there is no compiler, where it fails, or where `CAFE_KERNELS` is 0.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if os.environ.get("CAFE_KERNELS") == "0" or compiler is None:
        return None
    try:
        library, command = _library(source, included, compiler)
        if not library.is_file():
            if not build:
                return None
            _build(library, command)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _library(source: Path, included: Sequence[Path], compiler: str) -> tuple[Path, list[str]]:
    """Where the library of a source lies on this machine, and what makes it."""
    wide = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
    command = [compiler, *FLAGS, *wide, str(source), "-o"]
    texts = [file.read_text(encoding="utf-8") for file in (source, *included)]
    known = [*texts, _instructions(), *command]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    return user_cache_folder() / f"{source.stem}-{digest}.so", command


def _build(library: Path, command: list[str]) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder, library.name)
        subprocess.run([*command, str(built)], check=True, capture_output=True, timeout=120)  # noqa: S603
        built.replace(library)  # in one step: another process may build it too


def _instructions() -> str:
    """What the processor can do: homes are shared by unlike machines."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.processor() + platform.machine())
