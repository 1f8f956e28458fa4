"""Caches from features that were computed elsewhere."""

from __future__ import annotations

import datetime
import importlib.metadata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError
from cafe.home import cache_name
from cafe.key import Key, digest_of_file
from cafe.store import SPLITS, Block, FeatureCache, Header, write_cache

Arrays = dict[str, NDArray[Any]]

_NAMES = (
    "class_names",
    "logit_scale",
    "text_prompts",
    *(f"{split}_{part}" for split in SPLITS for part in ("features", "labels")),
)
_LARGEST_RATIO = 100  # features hardly shrink when they are packed: what does is no features
_FAULTS = (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def import_npz(source: Path, path: Path) -> FeatureCache:
    """Make a cache from a NumPy archive of features.

    Parameters
    ----------
    source : Path
        An npz file with `{train,val,test}_features (N, D)` and `{train,val,test}_labels (N,)` for
        at least one split, `text_prompts (C, P, D)` (or `(C, D)`), `class_names (C,)` and
        `logit_scale ()`. Nothing in it is unpickled.
    path : Path
        The cache file to write, `<home>/<dataset>/<model>.<pretrained>.h5`.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there is no such file.
    CacheFormatError
        If arrays are missing, of the wrong shape, or not finite; nothing is written.
    CacheError
        If the cache cannot be written.
    """
    arrays = _load(source)
    text = _text(source, arrays)
    present = [split for split in SPLITS if f"{split}_features" in arrays]
    splits = {split: _block(source, arrays, split, text) for split in present}
    if not splits:
        raise CacheFormatError(f"'{source}' has no split: it needs train_features and so on.")
    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    names = tuple(str(name) for name in arrays["class_names"].tolist())
    header = Header(
        key=_key(source),
        dataset=dataset,
        model=model,
        pretrained=pretrained,
        class_names=names,
        sentences=tuple(_unknown_sentences(name, text.shape[1]) for name in names),
        text_features=text,
        logit_scale=_logit_scale(source, arrays),
        source=f"imported from {source.name}",
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    write_cache(path, header, {split: [block] for split, block in splits.items()})
    return FeatureCache.open(path)


def _load(source: Path) -> Arrays:
    if not source.is_file():
        raise InputError(f"no file '{source}'; give an npz file of features.")
    try:
        with source.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise ValueError("it is no zip archive of arrays")
            stream.seek(0)
            file = np.load(stream, allow_pickle=False)
            _refuse_bomb(source, file)
            arrays = {name: file[name] for name in file.files if name in _NAMES}
            found = ", ".join(sorted(file.files)) or "nothing"
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:160]
        raise CacheFormatError(
            f"'{source}' is not a readable npz file ({reason}); save it with numpy.savez."
        ) from error
    missing = [name for name in ("text_prompts", "class_names") if name not in arrays]
    if missing:
        raise CacheFormatError(f"'{source}' has no {' and no '.join(missing)}; found {found}.")
    return arrays


def _refuse_bomb(source: Path, file: Any) -> None:
    unpacked = sum(member.file_size for member in file.zip.infolist())
    if unpacked > _LARGEST_RATIO * source.stat().st_size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes")


def _text(source: Path, arrays: Arrays) -> NDArray[np.float32]:
    given, names = arrays["text_prompts"], arrays["class_names"]
    if given.dtype.kind != "f" or names.dtype.kind not in "US":
        raise CacheFormatError(
            f"'{source}': text_prompts must be floats and class_names text; found {given.dtype} "
            f"and {names.dtype}."
        )
    text = given[:, None] if given.ndim == 2 else given
    if text.ndim != 3 or names.shape != text.shape[:1] or len(text) < 2 or not text.size:
        raise CacheFormatError(
            f"'{source}': text_prompts {given.shape} must be (C, P, D) for the {names.shape} "
            "class_names, with at least 2 classes."
        )
    return _finite(source, "text_prompts", text).astype(np.float32)


def _block(source: Path, arrays: Arrays, split: str, text: NDArray[np.float32]) -> Block:
    features = arrays[f"{split}_features"]
    labels = arrays.get(f"{split}_labels")
    if labels is None or labels.ndim != 1 or labels.shape != features.shape[:1]:
        raise CacheFormatError(
            f"'{source}': {split}_features {features.shape} need as many {split}_labels; found "
            f"{'none' if labels is None else labels.shape}."
        )
    if not len(labels):
        raise CacheFormatError(f"'{source}': {split}_features hold no image; leave them out.")
    if features.ndim != 2 or features.shape[1] != text.shape[2] or features.dtype.kind != "f":
        raise CacheFormatError(
            f"'{source}': {split}_features must be floats (N, {text.shape[2]}) as wide as "
            f"text_prompts; found {features.dtype} {features.shape}."
        )
    is_whole = labels.dtype.kind in "iu"
    if not is_whole or not 0 <= labels.min() <= labels.max() < len(text):
        found = f" from {labels.min()} to {labels.max()}" if is_whole else ""
        raise CacheFormatError(
            f"'{source}': {split}_labels must be integers from 0 to {len(text) - 1}, one for each "
            f"of the {len(text)} class_names; found {labels.dtype}{found}."
        )
    stored = _finite(source, f"{split}_features", features)
    ids = [f"{source.stem}/{split}/{row}" for row in range(len(labels))]
    return Block(ids, labels.astype(np.int32), stored)


def _finite(source: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array in half precision where it is given so, else in single."""
    with np.errstate(over="ignore"):
        stored = array if array.dtype == np.float16 else array.astype(np.float32)
    if not np.isfinite(stored).all():
        raise CacheFormatError(f"'{source}': {name} hold values that are not finite.")
    return stored


def _logit_scale(source: Path, arrays: Arrays) -> float:
    """CLIP's published scale is 100; a file without one is taken to be of such a model."""
    given = arrays.get("logit_scale", np.float32(100.0))
    if given.size != 1 or given.dtype.kind not in "fiu":
        raise CacheFormatError(
            f"'{source}': logit_scale must be one number; found {given.shape} {given.dtype}."
        )
    scale = float(given.item())
    if not np.isfinite(scale) or scale <= 0:
        raise CacheFormatError(f"'{source}': logit_scale must be above 0; found {scale}.")
    return scale


def _unknown_sentences(name: str, prompts: int) -> tuple[str, ...]:
    return tuple(f"{name} (imported prompt {number})" for number in range(prompts))


def _key(source: Path) -> Key:
    return {"imported_from": source.name, "imported_sha256": digest_of_file(source)}
