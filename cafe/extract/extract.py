"""dataset x encoder -> cache file, once; knows neither methods nor the command line."""

from __future__ import annotations

import collections
import datetime
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cafe.datasets.base import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Augmentation
from cafe.encoders.spatial import grid_of
from cafe.errors import CacheFormatError, CacheMismatchError, DatasetError
from cafe.extract.encode import Options, Unit, encode_units, plan_units
from cafe.extract.resume import ResumeFolder, clean_up
from cafe.store import FeatureCache, Header, write_cache
from cafe.store.key import Key, differences, digest_of_array, digest_of_names

__all__ = ["Extraction", "Options", "cache_key", "extract"]

Engine = Callable[[Dataset, Encoder, ResumeFolder, Sequence[Unit], Options], int]
"""Encodes the units that are not finished yet into blocks; returns the number of images encoded."""

_VERSIONS = ("cafe-clip", "open_clip_torch", "torch", "torchvision", "pillow", "h5py", "numpy")


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    path : Path
        The cache file.
    images : int
        Images encoded by this run; 0 where the cache was there.
    skipped : int
        Images that could not be read.
    seconds : float
        Time that encoding the images took.
    was_there : bool
        The same cache was there and nothing was done.
    """

    path: Path
    images: int
    skipped: int
    seconds: float
    was_there: bool = False


def cache_key(
    dataset: Dataset,
    encoder: Encoder,
    sentences: Sequence[Sequence[str]],
    augmentation: Augmentation,
    grid: tuple[int, int] | None = None,
) -> Key:
    """Everything that determines the features of an extraction; `grid` is that of spatial maps."""
    flat = [sentence for row in sentences for sentence in row]
    maps = {} if grid is None else {"spatial": {"grid": list(grid), "tokens": "projected"}}
    return {
        **maps,
        "augmentation": augmentation.key(),
        "architecture_sha256": encoder.architecture_sha256,
        "class_names_sha256": digest_of_names(dataset.class_names),
        "dataset": dataset.name,
        "dataset_sha256": dataset.fingerprint(),
        "decoding": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB",
        "model": encoder.model,
        "precision": encoder.precision,
        "preprocess": {k: _plain(v) for k, v in sorted(encoder.preprocess.config.items())},
        "pretrained": encoder.pretrained,
        "sentences_sha256": digest_of_names([s for row in sentences for s in [*row, "\0"]]),
        "templates": list(dataset.templates),
        "tokens_sha256": digest_of_array(encoder.tokens(flat).numpy()),
        "weights_sha256": encoder.weights_sha256,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def extract(
    dataset: Dataset,
    encoder: Encoder,
    path: Path,
    *,
    sentences: Sequence[Sequence[str]],
    options: Options | None = None,
    rebuild: bool = False,
    engine: Engine = encode_units,
) -> Extraction:
    """Encode a dataset once and write its cache file.

    An interrupted extraction goes on after its last finished block when it is run again.

    Parameters
    ----------
    dataset : Dataset
    encoder : Encoder
    path : Path
        The cache file to write.
    sentences : sequence of sequence of str
        Prompts of every class; lengths may differ. (C, P)
    options : Options, optional
    rebuild : bool
        Replace a cache that was made under another key.
    engine : callable
        What encodes the blocks: this process, or the workers of a cluster
        (`cafe.extract.ray.RayEngine`). The file is the same.

    Returns
    -------
    Extraction

    Raises
    ------
    CacheMismatchError
        If a cache of another key is there and `rebuild` is not set; the difference is named.
    DatasetError
        If an image vanishes, cannot be read with `on_error="fail"`, or none of a split can.
    CacheError
        If the cache folder cannot be written.
    BusyError
        If another process writes the same cache.
    """
    options = options or Options()
    grid = None if options.spatial is None else grid_of(encoder, options.spatial)
    key = cache_key(dataset, encoder, sentences, options.augmentation, grid)
    if path.is_file() and _is_same(path, key, rebuild):
        clean_up(path)
        return Extraction(path, 0, 0, 0.0, was_there=True)
    start = time.perf_counter()
    units = plan_units(dataset, encoder, options)
    with ResumeFolder(path, key, units[0].batch) as partial:
        images = engine(dataset, encoder, partial, units, options)
        seconds = time.perf_counter() - start
        skipped = _skipped(partial, units)
        _refuse_empty(dataset, skipped, partial)
        header = _header(dataset, encoder, key, sentences, skipped)
        counts = collections.Counter(unit.split for unit in units)
        write_cache(path, header, {name: partial.blocks(name, n) for name, n in counts.items()})
        partial.discard()
    return Extraction(path, images, len(skipped), seconds)


def _is_same(path: Path, key: Key, rebuild: bool) -> bool:
    try:
        found = FeatureCache.open(path).header.key
    except CacheFormatError:
        if rebuild:
            return False
        raise
    different = differences(found, key)
    if different and not rebuild:
        raise CacheMismatchError(
            f"'{path}' was made differently: {'; '.join(different)}. Use --rebuild to replace it, "
            "or --cache to keep both."
        )
    return not different


def _skipped(partial: ResumeFolder, units: Sequence[Unit]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (unit.split, failure.id, failure.reason)
        for unit in units
        for failure in partial.load(unit.split, unit.number)[1]
    )


def _refuse_empty(
    dataset: Dataset, skipped: Sequence[tuple[str, str, str]], partial: ResumeFolder
) -> None:
    lost = collections.Counter(split for split, _, _ in skipped)
    for split, count in lost.items():
        if count == len(dataset.splits[split]):
            partial.discard()  # nothing in it is worth keeping until the images are repaired
            raise DatasetError(
                f"none of the {count} images of split '{split}' of '{dataset.name}' can be read "
                f"({skipped[0][1]}: {skipped[0][2]}); repair them and run the command again."
            )


def _header(
    dataset: Dataset,
    encoder: Encoder,
    key: Key,
    sentences: Sequence[Sequence[str]],
    skipped: tuple[tuple[str, str, str], ...],
) -> Header:
    prompts = max(len(row) for row in sentences)
    padded = tuple((*row, *[""] * (prompts - len(row))) for row in sentences)
    flat = [sentence for row in sentences for sentence in row]
    present = np.array([[sentence != "" for sentence in row] for row in padded])
    text = np.zeros((*present.shape, encoder.width), np.float32)
    text[present] = encoder.encode_text(flat).numpy()
    return Header(
        key=key,
        dataset=dataset.name,
        model=encoder.model,
        pretrained=encoder.pretrained,
        class_names=dataset.class_names,
        sentences=padded,
        text_features=text,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        source=dataset.source,
        missing=dataset.missing,
        skipped=skipped,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
