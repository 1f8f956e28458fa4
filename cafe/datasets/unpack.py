"""Unpacking archives of any origin: nothing leaves the folder, and nothing grows without bound.

Only files and folders are made. Links and devices are left out, so that no path leads through one.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from unittest import mock

from cafe.datasets.text_files import quote
from cafe.errors import DatasetError

LARGEST_RATIO = 20
"""How many times its own size an archive may unpack to: images hardly compress."""

_ALWAYS = 1 << 20  # bytes: a small archive is mostly padding
_OPENERS: Mapping[str | None, Callable[[Path], Any]] = {
    None: lambda path: path.open("rb"),
    ".bz2": bz2.open,
    ".gz": gzip.open,
    ".xz": lzma.open,
}


@contextmanager
def unpacked_by_cafe(datasets: Any) -> Iterator[None]:
    """Let torchvision, whose own unpacking follows any path and link, unpack as cafe does.

    Parameters
    ----------
    datasets : module
        `torchvision.datasets`.

    Raises
    ------
    DatasetError
        If this torchvision unpacks in a way that is not known.
    """
    known = getattr(datasets.utils, "_ARCHIVE_EXTRACTORS", {})
    if not {".tar", ".zip"} <= known.keys():
        raise DatasetError("this torchvision unpacks archives in a way that cafe does not know")
    with mock.patch.dict(known, {".tar": unpack_tar, ".zip": unpack_zip}):
        yield


class _Budget:
    """Bytes that may still be unpacked."""

    def __init__(self, archive: Path) -> None:
        self.most = self.left = _ALWAYS + LARGEST_RATIO * archive.stat().st_size

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DatasetError(f"it unpacks to more than {self.most:,} bytes")


class _Bounded:
    """A stream that ends with its budget, whatever its reader asks it for."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.take(len(data))
        return data


def unpack_tar(source: Path | str, target: Path | str, compression: str | None = None) -> None:
    """Unpack a tar archive; torchvision's signature.

    Raises
    ------
    DatasetError
        If a member leads out of the folder, or it unpacks to too much.
    """
    source, target = Path(source), Path(target)
    sizes = _Budget(source)  # claimed: a sparse file has few bytes and any size
    with _OPENERS[compression](source) as stream:
        bounded: Any = _Bounded(stream, _Budget(source))
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                path = _inside(target, member.name)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    sizes.take(member.size)
                    _write(archive.extractfile(member), path)
                elif member.islnk():  # the same file under a second name
                    first = _inside(target, member.linkname)
                    sizes.take(first.stat().st_size)
                    _write(first.open("rb"), path)


def unpack_zip(source: Path | str, target: Path | str, _compression: str | None = None) -> None:
    """Unpack a zip archive; see `unpack_tar`."""
    source, target = Path(source), Path(target)
    with zipfile.ZipFile(source) as archive:
        _Budget(source).take(sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            path = _inside(target, member.filename)
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                _write(archive.open(member), path)


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.partition("/")[0]:
        raise DatasetError(f"its member {quote(name)} leads out of its folder")
    return folder / path


def _write(stream: IO[bytes] | None, path: Path) -> None:
    if stream is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with stream, path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
