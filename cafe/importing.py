"""Caches from features that were computed elsewhere."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError
from cafe.home import cache_name
from cafe.key import Key
from cafe.store import SPLITS, Block, FeatureCache, Header, write_cache

Arrays = dict[str, NDArray[Any]]


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
    CacheFormatError
        If arrays are missing, of the wrong shape, or not finite; nothing is written.
    CacheError
        If the cache cannot be written.
    """
    arrays = _load(source)
    text = _text(source, arrays)
    splits = {split: _block(source, arrays, split, text) for split in SPLITS if _has(arrays, split)}
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
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise CacheFormatError(
            f"'{source}' is not a readable npz file ({error}); save it with numpy.savez."
        ) from error
    missing = [name for name in ("text_prompts", "class_names") if name not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise CacheFormatError(f"'{source}' has no {' and no '.join(missing)}; found {found}.")
    return arrays


def _has(arrays: Arrays, split: str) -> bool:
    return f"{split}_features" in arrays


def _text(source: Path, arrays: Arrays) -> NDArray[np.float32]:
    text = np.asarray(arrays["text_prompts"], np.float32)
    text = text[:, None] if text.ndim == 2 else text
    classes = len(arrays["class_names"]) if arrays["class_names"].ndim == 1 else -1
    if text.ndim != 3 or len(text) != classes or classes < 2:
        raise CacheFormatError(
            f"'{source}': text_prompts {arrays['text_prompts'].shape} must be (C, P, D) for the "
            f"{arrays['class_names'].shape} class_names, with at least 2 classes."
        )
    return text


def _block(source: Path, arrays: Arrays, split: str, text: NDArray[np.float32]) -> Block:
    features = arrays[f"{split}_features"]
    labels = arrays.get(f"{split}_labels")
    if labels is None or labels.shape != features.shape[:1]:
        raise CacheFormatError(
            f"'{source}': {split}_features {features.shape} need as many {split}_labels; found "
            f"{'none' if labels is None else labels.shape}."
        )
    if features.ndim != 2 or features.shape[1] != text.shape[2] or features.dtype.kind != "f":
        raise CacheFormatError(
            f"'{source}': {split}_features must be floats (N, {text.shape[2]}) as wide as "
            f"text_prompts; found {features.dtype} {features.shape}."
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(text):
        raise CacheFormatError(
            f"'{source}': {split}_labels must be integers from 0 to {len(text) - 1}, one for each "
            f"of the {len(text)} class_names; found {labels.dtype} up to {labels.max()}."
        )
    if not np.isfinite(features).all():
        raise CacheFormatError(f"'{source}': {split}_features hold values that are not finite.")
    stored = features if features.dtype == np.float16 else features.astype(np.float32)
    ids = [f"{split}/{row}" for row in range(len(labels))]
    return Block(ids, labels.astype(np.int32), stored)


def _logit_scale(source: Path, arrays: Arrays) -> float:
    """CLIP's published scale is 100; a file without one is taken to be of such a model."""
    scale = float(arrays.get("logit_scale", np.float32(100.0)))
    if not np.isfinite(scale) or scale <= 0:
        raise CacheFormatError(f"'{source}': logit_scale must be above 0; found {scale}.")
    return scale


def _unknown_sentences(name: str, prompts: int) -> tuple[str, ...]:
    return tuple(f"{name} (imported prompt {number})" for number in range(prompts))


def _key(source: Path) -> Key:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return {"imported_from": source.name, "imported_sha256": digest}
