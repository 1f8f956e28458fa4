"""Text in arrays of fixed length, as a cache file holds it, and as a sequence that stays packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

_ROWS = 4096  # unpacked at a time

_Row = TypeVar("_Row")


class PackedText(Sequence[_Row]):
    """Rows of text that are unpacked one by one: a string of two letters takes thirty times more.

    A row is a string, or a tuple of strings where the array has two dimensions.

    Parameters
    ----------
    array : ndarray
        Packed text. (N,) or (N, n)
    """

    def __init__(self, array: NDArray[np.bytes_]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, rows: int) -> _Row: ...

    @overload
    def __getitem__(self, rows: slice) -> PackedText[_Row]: ...

    def __getitem__(self, rows: int | slice) -> _Row | PackedText[_Row]:
        if isinstance(rows, slice):
            return PackedText(self.array[rows])
        row: _Row = _unpack(self.array[rows].tolist())
        return row

    def __iter__(self) -> Iterator[_Row]:
        for start in range(0, len(self), _ROWS):
            yield from map(_unpack, self.array[start : start + _ROWS].tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"PackedText({len(self)} rows)"


def _unpack(packed: Any) -> Any:
    """A string, or a tuple of strings, of bytes."""
    if isinstance(packed, list):
        return tuple(map(_unpack, packed))
    return packed.decode("utf-8", "surrogateescape")


def unpack_text(array: NDArray[np.bytes_]) -> tuple[str, ...]:
    """The strings of packed text. (N,)"""
    return tuple(PackedText(array))


def pack_text(values: Any) -> NDArray[np.bytes_]:
    """Strings as UTF-8 of one length: bounded in size, and under the checksum of their chunk."""
    if isinstance(values, PackedText):
        return values.array
    array = np.array(values, dtype=object)
    for text in array.flat:
        if "\0" in text:  # text of fixed length ends at its first NUL
            raise InputError(f"{text!r} holds a NUL character; take it out of the name.")
    # file names that are not UTF-8 keep their bytes
    encoded = [text.encode("utf-8", "surrogateescape") for text in array.flat]
    packed = np.array(encoded or [b""], dtype="S")  # HDF5 takes no text of length 0
    width = max(1, packed.dtype.itemsize)
    return packed.astype(f"S{width}")[: array.size].reshape(array.shape)
