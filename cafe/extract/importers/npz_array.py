"""One array of an npz file, read a block of rows at a time; no code in it is run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, raise_as

_ADVICE = "save it with numpy.savez"


@dataclass(frozen=True)
class NpzArray:
    """An array that stays in its archive, whose checksums were compared.

    Attributes
    ----------
    file : Path
    name : str
    shape : tuple of int
    dtype : dtype
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """All rows in order, so many at a time.

        Raises
        ------
        CacheFormatError
            If the file has changed meanwhile, and is no readable archive any more.
        """
        bytes_of_row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with (
            raise_as(
                CacheFormatError, f"'{self.file}' is not a readable npz file", _ADVICE, Exception
            ),
            zipfile.ZipFile(self.file) as archive,
            archive.open(f"{self.name}.npy") as stream,
        ):
            _read_header(stream)
            for start in range(0, len(self), rows):
                count = min(rows, len(self) - start)
                block = np.frombuffer(stream.read(count * bytes_of_row), self.dtype)
                yield block.reshape(count, *self.shape[1:])


def open_array(archive: zipfile.ZipFile, file: Path, name: str) -> NpzArray | NDArray[Any]:
    """An array of an archive, left there unless its rows are not one after the other.

    Raises
    ------
    ValueError
        If it holds objects, or another number of bytes than its header says.
    """
    member = f"{name}.npy"
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _read_header(stream)
        nbytes = archive.getinfo(member).file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"its '{name}' holds objects")
    if min(shape, default=0) < 0 or nbytes != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f"its '{name}' does not hold the {shape} that its header says")
    if is_fortran and len(shape) > 1:  # rows lie across the file
        with archive.open(member) as stream:
            whole: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return whole
    return NpzArray(file, name, shape, dtype)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
