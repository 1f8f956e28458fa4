"""C++ that is built on the user's machine, where there is a compiler, and kept for the next run.

Whatever is built has a slower twin that gives the same. It takes about a second, once for a
machine, and goes into the user's cache folder. `CAFE_KERNELS=0` does without.

What is loaded runs as the user does. So the folder must be one that only the user may write to, and
the name of a library says what is in it: half a library would end the program.
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

_PATIENCE = 30  # seconds for a compiler, which takes one or two


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
        name, command = _named(source, included, compiler)
        library = _find(name)
        if library is None and build:
            library = _build(name, command)
        return None if library is None else ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _named(source: Path, included: Sequence[Path], compiler: str) -> tuple[str, list[str]]:
    """How the library of a source is called on this machine, and what makes it."""
    wide = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
    command = [compiler, *FLAGS, *wide, str(source), "-o"]
    texts = [file.read_text(encoding="utf-8") for file in (source, *included)]
    known = [*texts, _instructions(), *command]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    return f"{source.stem}-{digest}", command


def _find(name: str) -> Path | None:
    """The library of this name, where it is there and whole."""
    folder = _folder()
    _refuse_others(folder)
    found = folder.glob(f"{name}-*.so")
    return next((path for path in found if path.name == _file_name(name, path)), None)


def _build(name: str, command: list[str]) -> Path:
    folder = _folder()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    _refuse_others(folder)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        built = Path(inside, "built.so")
        subprocess.run(  # noqa: S603
            [*command, str(built)],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
        )
        # in one step: another process may build it too
        return built.replace(folder / _file_name(name, built))


def _folder() -> Path:
    return user_cache_folder() / "compiled"


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that another user may write to, or made."""
    if os.name != "posix" or not folder.exists():
        return
    state = folder.lstat()
    if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
        raise PermissionError(f"others may write to '{folder}'.")


def _file_name(name: str, library: Path) -> str:
    return f"{name}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so"


def _instructions() -> str:
    """What the processor can do: homes are shared by unlike machines."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.processor() + platform.machine())
