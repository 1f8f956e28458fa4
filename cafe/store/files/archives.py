"""Zip archives, such as NumPy's and PyTorch's files are: damage is found before they are read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from cafe.errors import one_line

_LARGEST_END = 22 + 65535  # bytes of an archive's last record, comment included
_END = b"PK\5\6"


def is_archive(file: Path) -> bool:
    """Whether a file begins as an archive, by which torch knows its own from older ones."""
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def check_archive(file: Path, largest: int | None = None) -> None:
    """Compare an archive's list of members and every checksum with what is there.

    The libraries do so in part: NumPy compares the checksum of a member that it reads to its end,
    which a damaged header prevents, and torch none of a file that it maps.

    Parameters
    ----------
    file : Path
    largest : int, optional
        Bytes that the members may have when they are unpacked; None is any number.

    Raises
    ------
    ValueError
        With the reason, if the archive is damaged or too large.
    OSError
        If it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if largest is not None and unpacked > largest:
                raise ValueError(f"it unpacks to {unpacked:,} bytes")
            if len(archive.NameToInfo) < len(members):
                raise ValueError("it holds two parts of one name")
            if len(members) != _count_members(file):
                raise ValueError("its list of parts is damaged")
            if damaged := archive.testzip():
                raise ValueError(f"its part '{damaged}' does not have its checksum")
    # what a damaged header makes of a member: encrypted, compressed in another way, ...
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(one_line(error)) from error


def _count_members(file: Path) -> int:
    """How many members an archive says to have, which Python does not compare with its list."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _LARGEST_END))
        end = stream.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(_END) + 10)
    return int(count)
