"""Opening an image file: of a known format, within a budget of bytes, pixels and time.

A small file can name any number of pixels, and a progressive JPEG may go over all of them a
thousand times. What a file asks for is counted before any pixel is decoded.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cafe.datasets.image_formats import HEAD, SUFFIXES, can_open, sniff, what_it_needs
from cafe.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

MOST_FILE_BYTES = 1 << 29
"""Of one image file, which is read as a whole."""

_MOST_MEMORY = 1 << 30  # bytes that decoding one image may take
_PIXEL_BYTES = {"AVIF": 10, "HEIF": 10, "JPEG2000": 20, "WEBP": 16}
"""Measured at the peak: what decoders take per pixel. Others take 4, and as much for RGB; those of
CMYK take 12."""

_MOST_SCANNED = 1 << 34
"""Pixels over all scans of a JPEG: about 5 s. A scan of 134 million pixels takes 30 ms."""

_MOST_TEXT = 1 << 24  # bytes of a plain PPM, which Python itself reads

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END, _SCAN = b"\xff\xd9", b"\xff\xda"

_YOUNG = 2_000_000_000
"""Nanoseconds after a change in which another one may leave a file's times as they are."""


_MOST_READS = 1 << 19
_MOST_SEGMENTS = 1 << 16


class _Stream(io.BytesIO):
    """Bytes that may be read half a million times: some files are made of parts of few bytes."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes."""
        self.reads += 1
        if self.reads > _MOST_READS:
            raise ImageError("it is made of too many parts")
        return super().read(size)


class FileState(NamedTuple):
    """What tells whether a file is still the one that was read.

    Attributes
    ----------
    sha256 : bytes
        Of its content; zeros where it could not be read.
    size, mtime_ns, ctime_ns, inode : int
        As the system gives them: while all four are the same, so is the content. `mtime_ns` is 0
        where the file had just been changed, so that this may not be relied on.
    """

    sha256: bytes
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0


class ImageFile(NamedTuple):
    """The bytes of an image file, and its state when they were read."""

    content: bytes
    state: FileState


STATE = "cafe_file_state"
"""Where an opened image keeps the state of its file."""

NO_STATE = FileState(bytes(32))
"""Of a file that cannot be read."""


def quick_state(path: Path) -> tuple[int, int, int, int]:
    """Size, times and inode of a file, without reading it."""
    return _quick_state(path.stat())


def _quick_state(status: os.stat_result) -> tuple[int, int, int, int]:
    inode = status.st_ino & ((1 << 63) - 1)  # some systems use all 64 bits
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


def read_image_file(path: Path) -> ImageFile:
    """Read an image file with a digest of its content.

    Raises
    ------
    ImageError
        If it is too large, or a pipe or a device, which would be waited for.
    OSError
        If it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("it is a folder, a pipe or a device, and no file")
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size > MOST_FILE_BYTES:
            raise ImageError(
                f"the file has {status.st_size:,} bytes, and cafe reads images of up to "
                f"{MOST_FILE_BYTES:,}"
            )
        content = stream.read(MOST_FILE_BYTES)
    state = FileState(hashlib.sha256(content).digest(), *_quick_state(status))
    is_young = time.time_ns() - max(state.mtime_ns, state.ctime_ns) < _YOUNG
    return ImageFile(content, state._replace(mtime_ns=0) if is_young else state)


def state_now(path: Path) -> FileState:
    """The state of a file; `NO_STATE` where it cannot be read."""
    try:
        return read_image_file(path).state
    except (ImageError, OSError):
        return NO_STATE


def open_image(file: Path | bytes) -> Image.Image:
    """Open an image, not yet decoded. The state of its file is in its `info`, under `STATE`.

    Parameters
    ----------
    file : Path or bytes
        A file, or what is in one.

    Raises
    ------
    ImageError
        If it is of no format that cafe reads, or asks for more than the budget.
    OSError
        If it is absent or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    content, state = read_image_file(file) if isinstance(file, Path) else (file, None)
    name = sniff(content[:HEAD])
    if name is None:
        raise ImageError(_what_it_is(content))
    if not can_open(name):
        raise ImageError(f"it is {name}, which needs {what_it_needs(name)}")
    try:
        image = Image.open(_Stream(content), formats=[name])
    except UnidentifiedImageError:
        reason = f"it begins as {name}, and is damaged or of a kind that Pillow does not read"
        raise ImageError(reason) from None
    _check_budget(image, name, content)
    if state is not None:
        image.info[STATE] = state
    return image


def _what_it_is(content: bytes) -> str:
    if not content:
        return "the file is empty"
    return f"cannot identify an image in it; cafe reads {', '.join(SUFFIXES)}"


def _check_budget(image: Image.Image, name: str, content: bytes) -> None:
    pixels, (width, height) = image.width * image.height, image.size
    if name == "TIFF":  # a tile is decoded whole, and may be larger than the image
        width, height = (max(image.size[i], _side(image, tag)) for i, tag in enumerate((322, 323)))
    most = _MOST_MEMORY // (12 if image.mode == "CMYK" else _PIXEL_BYTES.get(name, 8))
    if width * height > most:
        raise ImageError(
            f"{width} x {height} pixels are more than the {most:,} that cafe decodes of {name}"
        )
    if name == "PPM" and content[:2] in (b"P1", b"P2", b"P3") and len(content) > _MOST_TEXT:
        raise ImageError(
            f"{len(content):,} bytes of numbers in words take too long to read; save it as binary"
        )
    scans = count_scans(content) if name == "JPEG" else 1
    if scans * pixels > _MOST_SCANNED:
        raise ImageError(
            f"its {scans:,} scans of {image.width} x {image.height} pixels take too long to decode"
        )


def _side(image: Image.Image, tag: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, 0)
    return value if isinstance(value, int) else 0


def count_scans(jpeg: bytes) -> int:
    """How many times a JPEG goes over its pixels."""
    scans, place = 0, 2
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(jpeg, place)
        if marker is None or marker[0] == _END:
            return scans
        scans += marker[0] == _SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    raise ImageError("it is made of too many parts")
