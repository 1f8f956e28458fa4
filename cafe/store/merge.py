"""Several caches as one."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheMismatchError, InputError, counted
from cafe.progress import Note, log
from cafe.store import SPLITS, Block, FeatureCache, lock_cache, utc_now, write_cache
from cafe.store.key import differences, digest_of_array
from cafe.store.paths import cache_name

_DATASET_PARTS = (
    "dataset",
    "dataset_sha256",
    "images_sha256",
    "imported_from",
    "imported_sha256",
    "merged_sha256",
)
"""Parts of a key that tell datasets apart, which caches of different images may differ in."""
_RESTATED = ("class_names_sha256", "logit_scale", "logit_bias", "label")
"""Parts that not every cafe wrote; what they stand for is compared itself."""
_LEFT_OUT = _DATASET_PARTS + _RESTATED

_SAME_IMAGE = 0.9999  # cosine that one image reaches in another batch, and two hardly ever
_ROWS = 1000  # compared at once
_DIGEST = np.dtype("V32")


def merge_caches(
    caches: Sequence[FeatureCache],
    path: Path,
    *,
    replace: bool = True,
    equal_ids: Literal["rename", "refuse"] = "rename",
    note: Note | None = None,
) -> FeatureCache:
    """Join caches of one encoder, made in the same way for the same classes, into one.

    Each split's images follow each other in the order given. Features are copied a few megabytes
    at a time.

    Parameters
    ----------
    caches : sequence of FeatureCache
        At least two.
    path : Path
        The cache file to write.
    replace : bool
        Whether the file may be there already.
    equal_ids : {"rename", "refuse"}
        What to do where different images of two caches have one id: put the dataset before every
        id (`north/a/1.png`), or refuse.
    note : callable, optional
        Called with a line where ids were changed; None logs it.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there are fewer than two, two hold the same image, ids are equal and may not, or the file
        is there and may not.
    CacheMismatchError
        If they were made differently; the difference is named.
    BusyError
        If another process writes the file.
    """
    if len(caches) < 2:
        raise InputError(f"merging needs at least two caches; got {len(caches)}.")
    first = caches[0]
    for other in caches[1:]:
        _check_alike(first, other)
    prefixes = _prefixes(caches, equal_ids, note or log.info)
    splits = [split for split in SPLITS if any(split in cache.counts for cache in caches)]
    dataset, _, _ = cache_name(path).partition("/")
    parts = list(zip(prefixes, caches, strict=True))
    _note_same_files(parts, note or log.info)
    # what remains of the first key holds for all; the parts are named by their content
    header = dataclasses.replace(
        first.header,
        key={**_shared(first), "merged_sha256": [cache.content_sha256 for cache in caches]},
        dataset=dataset,
        notes=tuple(dict.fromkeys(note for cache in caches for note in cache.header.notes)),
        source=" + ".join(dict.fromkeys(cache.header.source for cache in caches)),
        missing=tuple(f"{b}{name}" for b, c in parts for name in c.header.missing),
        skipped=tuple(
            (s, f"{before}{i}", r) for before, c in parts for s, i, r in c.header.skipped
        ),
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=utc_now(),
    )
    with lock_cache(path, replace=replace):
        write_cache(path, header, {split: _chain(parts, split) for split in splits})
    return FeatureCache.open(path)


def _shared(cache: FeatureCache) -> dict[str, Any]:
    return {name: part for name, part in cache.header.key.items() if name not in _LEFT_OUT}


def _check_alike(first: FeatureCache, other: FeatureCache) -> None:
    different = differences(
        {**_shared(first), **_facts(first)}, {**_shared(other), **_facts(other)}
    )
    if different:
        raise CacheMismatchError(
            f"'{other.path}' was made differently from '{first.path}': "
            f"{'; '.join(different).replace('asked for', 'here')}; caches of one encoder and the "
            "same classes and prompts can be merged."
        )


def _facts(cache: FeatureCache) -> dict[str, Any]:
    header = cache.header
    return {
        "model": header.model,
        "pretrained": header.pretrained,
        "logit scale": header.logit_scale,
        "logit bias": header.logit_bias,
        "class names": list(header.class_names),
        "sentences": [list(row) for row in header.sentences],
        "text features": digest_of_array(header.text_features),
        "type": cache.dtype,
        "views": cache.views,
        "spatial size": cache.spatial_size,
        **{
            name: digest_of_array(array)
            for name, array in vars(header).items()
            if name.startswith("projection") and array is not None
        },
    }


def _prefixes(caches: Sequence[FeatureCache], equal_ids: str, note: Note) -> list[str]:
    """What to put before the ids of each cache: nothing, unless two caches share an id."""
    shared = _shared_ids(caches)
    if not shared:
        return [""] * len(caches)
    what = f"{len(shared):,} ids are in several caches, such as '{min(shared)}'"
    if equal_ids == "refuse":
        raise InputError(f"{what}; rename the images, or use equal_ids='rename'.")
    for one, other in itertools.combinations(caches, 2):
        _refuse_same_images(one, other, shared)
    names = [cache.header.dataset for cache in caches]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    note(f"{what}: every id now starts with its dataset, as in '{names[0]}/{min(shared)}'.")
    return [f"{name}/" for name in names]


def _shared_ids(caches: Sequence[FeatureCache]) -> Set[str]:
    seen: set[str] = set()
    shared: set[str] = set()
    for cache in caches:
        ids = set(itertools.chain.from_iterable(map(cache.ids, cache.counts)))
        shared |= seen & ids
        seen |= ids
    return shared


def _refuse_same_images(one: FeatureCache, other: FeatureCache, shared: Set[str]) -> None:
    """An image in two caches would count twice, or lie in the training and the test split."""
    for split, its_split in itertools.product(one.counts, other.counts):
        rows = {name: row for row, name in enumerate(one.ids(split)) if name in shared}
        pairs = [
            (rows[name], row, name) for row, name in enumerate(other.ids(its_split)) if name in rows
        ]
        for start in range(0, len(pairs), _ROWS):
            left, right, names = zip(*pairs[start : start + _ROWS], strict=True)
            x, y = _unit_features(one, split, left), _unit_features(other, its_split, right)
            same = np.flatnonzero((x * y).sum(1) > _SAME_IMAGE)
            if same.size:
                raise InputError(
                    f"'{names[same[0]]}' is the same image in '{one.path}' ({split}) and in "
                    f"'{other.path}' ({its_split}); merge caches of different images."
                )


def _note_same_files(parts: Sequence[tuple[str, FeatureCache]], note: Note) -> None:
    """Note images of one content that lie in the training and in the test split."""
    train, test = (_digests(parts, split) for split in ("train", "test"))
    same = np.setdiff1d(np.intersect1d(train, test), np.zeros(1, _DIGEST))
    if same.size:
        one, other = (
            [f"{before}{name}" for before, cache in parts for name in _ids(cache, split)]
            for split in ("train", "test")
        )
        row, its_row = (np.flatnonzero(side == same[0])[0] for side in (train, test))
        note(
            f"{counted(len(same), 'image')} in both training and test by content, such as "
            f"'{one[row]}' and '{other[its_row]}': accuracy on test is too high by these."
        )


def _digests(parts: Sequence[tuple[str, FeatureCache]], split: str) -> NDArray[np.void]:
    """SHA-256 of the images' files, of the caches that know them. (N,)"""
    files = [cache.files(split) for _, cache in parts if split in cache.counts]
    known = [states["sha256"].reshape(-1, 32) for states in files if states is not None]
    return np.concatenate([np.zeros((0, 32), np.uint8), *known]).view(_DIGEST).ravel()


def _ids(cache: FeatureCache, split: str) -> Sequence[str]:
    """Ids of the images whose files a cache knows."""
    is_known = split in cache.counts and cache.files(split) is not None
    return cache.ids(split) if is_known else ()


def _unit_features(cache: FeatureCache, split: str, rows: Sequence[int]) -> Any:
    """Features of some rows, of length 1. (n, D)"""
    features = cache.read(split, rows, views=False, dtype=np.float32).features
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _chain(parts: Sequence[tuple[str, FeatureCache]], split: str) -> Iterator[Block]:
    for prefix, cache in parts:
        if split in cache.counts:
            for block in cache.blocks(split):
                yield dataclasses.replace(block, ids=[f"{prefix}{name}" for name in block.ids])
