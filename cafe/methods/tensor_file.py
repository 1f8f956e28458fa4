"""A safetensors file with JSON beside its tensors, sealed by a digest of both; knows no method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from cafe.store.files import utf8_path

FAULTS = (
    ArithmeticError,
    AssertionError,  # faiss, of keys whose width does not fit
    AttributeError,
    LookupError,
    OSError,
    RecursionError,  # JSON of ten thousand brackets
    StopIteration,  # an ensemble without members
    RuntimeError,  # tensors whose shapes do not fit
    TypeError,
    ValueError,
    safetensors.SafetensorError,
)
"""What a file of this kind raises at one damage or another."""

_TYPES = (torch.float32, torch.int64, torch.bool)
"""Others fit together with none of what they meet later."""


def pack(tensors: Mapping[str, Tensor], name: str, about: Mapping[str, Any]) -> bytes:
    """The bytes of a file.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    name : str
        The metadata entry that holds `about`.
    about : mapping
        JSON values; the digest joins them as `sha256`.
    """
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    plain = json.loads(json.dumps(about))  # as it will be read: the digest is of that
    sealed = {**plain, "sha256": _digest(copies, plain)}
    return save(copies, metadata={name: json.dumps(sealed)})


@contextmanager
def open_tensors(path: Path | str) -> Iterator[Any]:
    """A safetensors file, of any name."""
    with utf8_path(path) as name, safetensors.safe_open(name, framework="pt") as file:
        yield file


def read_about(path: Path | str, name: str) -> dict[str, Any]:
    """What a file says of its tensors; it raises one of `FAULTS` if it is none of this kind."""
    with open_tensors(path) as file:
        about: dict[str, Any] = json.loads((file.metadata() or {})[name])
    if not isinstance(about, dict):
        raise TypeError("it does not say what it holds")
    return about


def read_tensors(path: Path | str, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file, all finite, with the digest in `about` compared.

    Files that were written before there was a digest are read without.

    Raises
    ------
    ValueError
        If the file does not have its digest, or a number is not finite; or another of `FAULTS`.
    """
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    plain = {name: value for name, value in about.items() if name != "sha256"}
    if "sha256" in about and about["sha256"] != _digest(tensors, plain):
        raise ValueError("it does not have its digest")
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise TypeError(f"'{name}' has type {tensor.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"'{name}' holds numbers that are not finite")
    return tensors


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and numbers of the tensors, and of what is said of them."""
    checksum = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # the bytes as they lie
    return checksum.hexdigest()
