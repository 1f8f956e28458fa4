"""The pixels of Pillow's resize and a crop, in less time: in C++, where it was built.

Pillow computes one number at a time; the compiler of the user's machine makes vectors of
`resize.cpp`.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from cafe.compiled import load_library
from cafe.encoders.crop_resize import Side, taps_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("resize.cpp")

WORTH = 1000
"""Images from which the second that a compiler takes is worth it."""

_LONGEST = 1 << 14  # pixels of a side; 64 bytes of weights for each, kept for many images
_GROUP = 4  # taps that `resize_columns` takes at a time


class _Windows(NamedTuple):
    """Where the window of each pixel that is kept begins (kept,), and the weights in it.

    These are (kept, taps, channels): of columns the same for each channel, of rows of one channel.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.int32]


def build_quick_resize(images: int) -> None:
    """Build it where so many images are worth it; `quick_resize` takes it once it is there."""
    if images >= WORTH and _library() is None and load_library(SOURCE) is not None:
        _library.cache_clear()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """What was built, if it gives the pixels of the Pillow that is installed."""
    library = load_library(SOURCE, build=False)
    return library if library is not None and _agrees(library) else None


def _agrees(library: ctypes.CDLL) -> bool:
    width, height = Side(61, 24, 1, 20), Side(47, 18, 2, 15)
    values = np.random.default_rng(0).integers(0, 256, (height.length, width.length, 3), np.uint8)
    image = Image.fromarray(values)
    for kernel in ("bilinear", "bicubic"):
        resized = image.resize((24, 18), Image.Resampling[kernel.upper()]).crop((1, 2, 21, 17))
        quick = _resize(library, image, width, height, kernel)
        if quick is None or not np.array_equal(np.asarray(resized), quick):
            return False
    return True


def quick_resize(
    image: Image.Image, width: Side, height: Side, kernel: str
) -> NDArray[np.uint8] | None:
    """Resize an image and crop it.

    Parameters
    ----------
    image : PIL.Image.Image
    width, height : Side
    kernel : {"bilinear", "bicubic"}

    Returns
    -------
    ndarray or None
        (height.kept, width.kept, 3). None where nothing was built, the image is narrower than the
        kernel or a side is very long, its mode is not RGB, Pillow lends no pixels, or may resize
        the height first.
    """
    library = _library()
    if library is None or image.mode != "RGB" or max(image.size) > _LONGEST:
        return None
    if not _columns_come_first(width, height):
        return None
    return _resize(library, image, width, height, kernel)


def _columns_come_first(width: Side, height: Side) -> bool:
    """Whether Pillow resizes the width first.

    From Pillow 13 on it does not where the height shrinks by more than twice as many pixels.
    """
    by = height.length - height.resized
    return by <= 0 or by <= 1.9 * (width.length - width.resized)


def _resize(
    library: ctypes.CDLL, image: Image.Image, width: Side, height: Side, kernel: str
) -> NDArray[np.uint8] | None:
    if (lent := _lent_pixels(image)) is None:
        return None
    address, owner = lent
    across, down = _windows(width, kernel, _GROUP), _windows(height, kernel, 1)
    if across is None or down is None:
        return None
    top, bottom = int(down.first[0]), int(down.first[-1]) + down.weights.shape[1]
    wide = np.empty(4 * image.width, np.int32)
    between = np.empty((bottom - top, width.kept, 4), np.uint8)
    out = np.empty((height.kept, width.kept, 3), np.uint8)
    library.resize_columns(
        ctypes.c_void_p(address + 4 * image.width * top),
        *map(ctypes.c_long, (len(between), image.width)),
        *map(_pointer, (wide, across.first, across.weights)),
        *map(ctypes.c_long, (width.kept, across.weights.shape[1])),
        _pointer(between),
    )
    del owner  # until here it kept the pixels
    first = down.first - top
    library.resize_rows(
        _pointer(between),
        ctypes.c_long(width.kept),
        *map(_pointer, (first, down.weights)),
        *map(ctypes.c_long, down.weights.shape[:2]),
        _pointer(out),
    )
    return out


@lru_cache(maxsize=64)
def _windows(side: Side, kernel: str, group: int) -> _Windows | None:
    """Windows as long as the longest, in multiples of `group`; None where the side is shorter."""
    places, weights = taps_of(side, kernel)
    kept, count = weights.shape
    taps = -(-count // group) * group
    if taps > side.length:
        return None
    first = np.minimum(places[:, 0], side.length - taps)  # no window ends behind the side
    moved = (places[:, 0] - first)[:, None] + np.arange(count)  # (kept, count)
    padded = np.zeros((kept, taps + count), np.int32)  # beyond `taps` all weights are 0
    padded[np.arange(kept)[:, None], moved] = weights
    channels = 4 if group > 1 else 1
    return _Windows(first, padded[:, :taps].repeat(channels, axis=1).reshape(kept, taps, channels))


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _lent_pixels(image: Image.Image) -> tuple[int, object] | None:
    """Where Pillow's pixels lie, 4 bytes each, and what keeps them there.

    None where it lends none: before Pillow 11.2, and of images that lie in several pieces (above
    4 million pixels). A copy would double the memory of the largest images.
    """
    if Image.core.get_alignment() > 4:  # type: ignore[attr-defined]
        return None  # there are gaps between lines
    with contextlib.suppress(AttributeError, ValueError):
        schema, array = image.__arrow_c_array__()
        found = _ArrowArray.from_address(_address_in(array, b"arrow_array"))
        if found.length == image.width * image.height:
            return found.children[0].contents.buffers[1], (schema, array)
    return None


_address_in = ctypes.pythonapi.PyCapsule_GetPointer
_address_in.restype = ctypes.c_void_p
_address_in.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` of the Arrow C data interface, in which Pillow 11.2 lends its pixels."""


_ArrowArray._fields_ = [
    *[(name, ctypes.c_int64) for name in ("length", "nulls", "offset", "n_buffers", "n_children")],
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
