"""Arrays from NumPy's and PyTorch's files of any origin; no code in them is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError, one_line, raise_as
from cafe.extract.importers.npz_array import NpzArray, open_array
from cafe.store.files import check_archive, is_archive, utf8_path

_LARGEST_RATIO = 100  # features hardly compress; a file that unpacks to more is an attack


def read_npz(file: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read those arrays of an npz file that have one of the names.

    Raises
    ------
    InputError
        If there is no such file.
    CacheFormatError
        If it is no archive of arrays.
    """
    _must_be_there(file)
    problem, advice = f"'{file}' is not a readable npz file", "save it with numpy.savez"
    with raise_as(CacheFormatError, problem, advice, Exception):  # NumPy raises anything
        return _read_arrays(file, set(names))


def open_npz(file: Path, names: Sequence[str]) -> dict[str, NpzArray | NDArray[Any]]:
    """Open those arrays of an npz file that have one of the names; their rows are read later.

    Raises
    ------
    InputError
        If there is no such file.
    CacheFormatError
        If it is no archive of arrays, or one does not have the size that it says.
    """
    _must_be_there(file)
    problem, advice = f"'{file}' is not a readable npz file", "save it with numpy.savez"
    with (
        raise_as(CacheFormatError, problem, advice, Exception),  # NumPy raises anything
        zipfile.ZipFile(file) as archive,
    ):
        if other := next((name for name in names if name in archive.NameToInfo), None):
            raise TypeError(f"its '{other}' is no array")
        there = [name for name in names if f"{name}.npy" in archive.NameToInfo]
        return {name: open_array(archive, file, name) for name in there}


def names_in_npz(file: Path) -> list[str]:
    """Names of all arrays of an npz file that was read."""
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_array(file: Path) -> NDArray[Any]:
    """Read the one array of an npy file (mapped, not loaded) or of a pt file.

    Raises
    ------
    InputError
        If there is no such file, or it has another suffix.
    CacheFormatError
        If it holds anything but one array of numbers.
    """
    _must_be_there(file)
    readers = {".npy": _read_npy, ".pt": _read_pt, ".pth": _read_pt}
    if file.suffix not in readers:
        raise InputError(f"'{file}' must end in .npy, .npz, .pt or .pth, to say what it is.")
    try:
        return readers[file.suffix](file)
    except Exception as error:  # NumPy and PyTorch raise anything on a damaged file
        # the unpickler's message tells how to allow what it refuses, which nobody should do here
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors" if unsafe else one_line(error)
        raise CacheFormatError(
            f"'{file}' is no file of one array ({reason}); save it with numpy.save or torch.save."
        ) from error


def finite(what: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array in float16 if it is float16, else in float32.

    Raises
    ------
    CacheFormatError
        If a number is not finite.
    """
    with np.errstate(over="ignore"):
        stored = array if array.dtype == np.float16 else array.astype(np.float32)
    if not np.isfinite(stored).all():
        raise CacheFormatError(f"{what} hold values that are not finite.")
    return stored


def _read_arrays(file: Path, names: set[str]) -> dict[str, NDArray[Any]]:
    _check_archive(file)
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name in names}
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise TypeError(f"its '{others[0]}' is no array")
    return arrays


def _read_npy(file: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise TypeError("it is an archive of several")
    # a damaged header may claim fewer numbers than there are, and the format has no checksum
    if getattr(array, "offset", 0) + array.nbytes != file.stat().st_size:
        raise ValueError(f"it holds more than the {array.shape} that its header says")
    return array


def _read_pt(file: Path) -> NDArray[Any]:
    import torch

    zipped = is_archive(file)
    if zipped:
        _check_archive(file)
    with warnings.catch_warnings(), utf8_path(file) as path:
        warnings.simplefilter("ignore")  # about unusual pickles
        # weights_only builds tensors and nothing else, whatever the pickle asks for
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    if (
        not isinstance(tensor, torch.Tensor)
        or tensor.layout != torch.strided
        or tensor.is_quantized
    ):
        raise TypeError(f"it holds a {type(tensor).__name__}, not one dense tensor")
    # a tensor of stride 0 has few bytes and as many numbers as it likes
    if tensor.numel() * tensor.element_size() > _LARGEST_RATIO * file.stat().st_size:
        raise ValueError(f"it unfolds to {tensor.numel():,} numbers")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _must_be_there(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"no file '{file}'; give a file of features that is there.")


def _check_archive(file: Path) -> None:
    """Refuse an archive that is damaged, or unpacks to far more than it is."""
    check_archive(file, _LARGEST_RATIO * file.stat().st_size)
