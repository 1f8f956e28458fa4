"""The HDF5 file that holds the features of one dataset under one encoder: the only user of h5py.

The format is specified in cache/README.md. A file is written once, from front to back, under a
temporary name, and appears under its own name complete and synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheError, CacheFormatError, CacheNotFoundError
from cafe.key import Key, canonical, digest

FORMAT = 1
SPLITS = ("train", "val", "test")
_CHUNK_BYTES = 1 << 20
_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class Header:
    """What a cache says beside its image features.

    Attributes
    ----------
    key : mapping
        Everything that determines the features; see `cafe.key`.
    dataset, model, pretrained : str
        Names of the dataset and of the encoder.
    class_names : tuple of str
        (C,)
    sentences : tuple of tuple of str
        Prompts of every class; "" pads classes with fewer. (C, P)
    text_features : ndarray
        Raw text features, zeros where the sentence is "". (C, P, D) float32
    logit_scale : float
        Factor on cosines (CLIP's `exp(logit_scale)`).
    logit_bias : float or None
        Constant added to the logits (SigLIP).
    source : str
        In words: where images, labels and split come from.
    missing : tuple of str
        Files that the split names and that were not there.
    skipped : tuple of (split, id, reason)
        Images that could not be read.
    versions : mapping
        Versions of the software that made the file.
    created : str
        ISO 8601 time.
    """

    key: Key
    dataset: str
    model: str
    pretrained: str
    class_names: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    text_features: NDArray[np.float32]
    logit_scale: float
    logit_bias: float | None = None
    source: str = ""
    missing: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True)
class Block:
    """Consecutive images of one split.

    Attributes
    ----------
    ids : sequence of str
        (n,)
    labels : ndarray
        (n,) int32
    features : ndarray
        Raw image features, float32 or float16. (n, D)
    views : ndarray or None
        Features of augmented views, view 0 the plain one. (n, V, D)
    """

    ids: Sequence[str]
    labels: NDArray[np.int32]
    features: NDArray[Any]
    views: NDArray[Any] | None = None


def write_cache(path: Path, header: Header, splits: Mapping[str, Iterable[Block]]) -> None:
    """Write a cache file in one step.

    Parameters
    ----------
    path : Path
        Final name; its folder is made. A file that is there is replaced once the new one is whole.
    header : Header
    splits : mapping of str to iterable of Block
        Blocks of each split, in order; only one block is held in memory.

    Raises
    ------
    CacheError
        If the folder cannot be written or the disk is full; nothing is left under either name.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            _write_header(file, header)
            for name, blocks in splits.items():
                _write_split(file.create_group(f"splits/{name}"), blocks)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise CacheError(
            f"cannot write the cache '{path}' ({error}); choose another folder with --cache, or "
            "free some space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_header(file: h5py.File, header: Header) -> None:
    file.attrs["cafe_format"] = FORMAT
    file.attrs["key"] = canonical(header.key)
    file.attrs["key_sha256"] = digest(header.key)
    for name in ("dataset", "model", "pretrained", "source", "created"):
        file.attrs[name] = getattr(header, name)
    file.attrs["versions"] = json.dumps(dict(header.versions), sort_keys=True)
    file.attrs["logit_scale"] = header.logit_scale
    if header.logit_bias is not None:
        file.attrs["logit_bias"] = header.logit_bias
    _write_strings(file, "class_names", header.class_names)
    _write_strings(file, "text/sentences", header.sentences)
    _write_strings(file, "missing", header.missing)
    _write_strings(file, "skipped", np.reshape(np.array(header.skipped, object), (-1, 3)))
    features = np.asarray(header.text_features, np.float32)
    text = file.create_dataset("text/features", data=features)
    text.attrs["sha256"] = hashlib.sha256(features.tobytes()).hexdigest()


def _write_strings(group: h5py.Group, name: str, values: Any) -> None:
    array = np.array(values, dtype=object)
    dataset = group.create_dataset(name, data=array, dtype=_TEXT, shape=array.shape)
    dataset.attrs["sha256"] = _digest_of_strings(array.ravel().tolist())


def _digest_of_strings(values: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(values).encode()).hexdigest()


class _Column:
    """A dataset of a split that grows block by block and carries a checksum."""

    def __init__(self, group: h5py.Group, name: str, first: NDArray[Any]) -> None:
        row_bytes = max(1, first.dtype.itemsize * int(np.prod(first.shape[1:])))
        rows = max(1, min(len(first), _CHUNK_BYTES // row_bytes))
        self._dataset = group.create_dataset(
            name,
            shape=(0, *first.shape[1:]),
            maxshape=(None, *first.shape[1:]),
            dtype=first.dtype,
            chunks=(rows, *first.shape[1:]),
            fletcher32=True,
        )
        self._digest = hashlib.sha256()

    def append(self, rows: NDArray[Any]) -> None:
        start = len(self._dataset)
        self._dataset.resize(start + len(rows), axis=0)
        self._dataset[start:] = rows
        self._digest.update(np.ascontiguousarray(rows).tobytes())

    def finish(self) -> None:
        self._dataset.attrs["sha256"] = self._digest.hexdigest()


def _write_split(group: h5py.Group, blocks: Iterable[Block]) -> None:
    columns: dict[str, _Column] = {}
    ids: list[str] = []
    for block in blocks:
        parts = {"features": block.features, "labels": block.labels.astype(np.int32)}
        if block.views is not None:
            parts["views"] = block.views
        for name, rows in parts.items():
            if name not in columns:
                columns[name] = _Column(group, name, rows)
            columns[name].append(rows)
        ids += block.ids
    for column in columns.values():
        column.finish()
    _write_strings(group, "ids", ids)


@dataclass(frozen=True)
class SplitArrays:
    """One split of a cache as arrays in memory; see `Block` for the shapes."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    features: NDArray[Any]
    views: NDArray[Any] | None


@dataclass(frozen=True)
class FeatureCache:
    """A cache file: its header in memory, its features read when asked for.

    Attributes
    ----------
    path : Path
    header : Header
    counts : mapping of str to int
        Images per split.
    width : int
        Feature width D.
    dtype : str
        Type of the stored image features.
    views : int
        Augmented views per training image, 1 where there are none.
    """

    path: Path
    header: Header
    counts: Mapping[str, int]
    width: int
    dtype: str
    views: int

    @classmethod
    def open(cls, path: Path | str) -> FeatureCache:
        """Open a cache and check its header.

        Parameters
        ----------
        path : Path or str
            The HDF5 file.

        Raises
        ------
        CacheNotFoundError
            If there is no such file.
        CacheFormatError
            If it is no cafe file, is truncated, or has a newer format.
        """
        path = Path(path)
        with _reading(path) as file:
            _check_format(path, file)
            header = _read_header(file)
            splits = {name: group for name, group in file["splits"].items() if name in SPLITS}
            counts = {name: len(splits[name]["labels"]) for name in SPLITS if name in splits}
            one = next(iter(splits.values()))
            views = splits["train"]["views"].shape[1] if "views" in splits.get("train", ()) else 1
            return cls(
                path=path,
                header=header,
                counts=counts,
                width=int(one["features"].shape[1]),
                dtype=str(one["features"].dtype),
                views=views,
            )

    def read(self, split: str) -> SplitArrays:
        """Read one split into memory.

        Parameters
        ----------
        split : {"train", "val", "test"}

        Raises
        ------
        CacheFormatError
            If the split is absent, damaged, or disagrees with the header.
        """
        with _reading(self.path) as file:
            group = file[f"splits/{split}"]
            arrays = SplitArrays(
                ids=tuple(group["ids"].asstr()[:].tolist()),
                labels=group["labels"][:].astype(np.int64),
                features=group["features"][:],
                views=group["views"][:] if "views" in group else None,
            )
        self._check_split(split, arrays)
        return arrays

    def _check_split(self, split: str, arrays: SplitArrays) -> None:
        classes, count = len(self.header.class_names), len(arrays.labels)
        if arrays.features.shape != (count, self.width) or len(arrays.ids) != count:
            raise CacheFormatError(
                f"cache '{self.path}': split '{split}' has {count} labels, {len(arrays.ids)} ids "
                f"and features {arrays.features.shape}; extract it again with --rebuild."
            )
        if count and not 0 <= arrays.labels.min() <= arrays.labels.max() < classes:
            raise CacheFormatError(
                f"cache '{self.path}': split '{split}' has labels from {arrays.labels.min()} to "
                f"{arrays.labels.max()} for {classes} class names; extract it again with --rebuild."
            )
        if not np.isfinite(arrays.features).all():
            raise CacheFormatError(
                f"cache '{self.path}': split '{split}' has features that are not finite; extract "
                "it again with --rebuild, in fp32 if need be."
            )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; whatever h5py makes of a damaged one is one clear error."""
    if not path.is_file():
        raise CacheNotFoundError(
            f"no cache at '{path}'; 'cafe cache ls' lists what there is, 'cafe extract' makes one."
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except CacheError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CacheFormatError(
            f"'{path}' is not a readable cafe cache ({reason}); it may be truncated: extract it "
            "again with --rebuild."
        ) from error


def _check_format(path: Path, file: h5py.File) -> None:
    found = file.attrs.get("cafe_format")
    if found is None:
        raise CacheFormatError(
            f"'{path}' is an HDF5 file but no cafe cache (it has no 'cafe_format'); "
            "'cafe cache import' reads features computed elsewhere."
        )
    if int(found) > FORMAT:
        raise CacheFormatError(
            f"'{path}' has cache format {int(found)}, this cafe reads up to {FORMAT}; update cafe."
        )


def _read_header(file: h5py.File) -> Header:
    attrs = file.attrs
    bias = attrs.get("logit_bias")
    names = _strings(file["class_names"])
    features = file["text/features"][:]
    if len(names) < 2 or features.ndim != 3 or len(features) != len(names):
        raise ValueError(f"{len(names)} class names with text features {features.shape}")
    return Header(
        key=json.loads(attrs["key"]),
        class_names=names,
        sentences=tuple(tuple(row) for row in file["text/sentences"].asstr()[:].tolist()),
        text_features=features,
        logit_scale=float(attrs["logit_scale"]),
        logit_bias=None if bias is None else float(bias),
        missing=_strings(file["missing"]),
        skipped=tuple((a, b, c) for a, b, c in file["skipped"].asstr()[:].tolist()),
        versions=json.loads(attrs["versions"]),
        **{n: str(attrs[n]) for n in ("dataset", "model", "pretrained", "source", "created")},
    )


def _strings(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(dataset.asstr()[:].tolist())
