"""Where the features of a check come from: a cache, or a dataset that is encoded first."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cafe.datasets.dataset import Dataset, check_labelled
from cafe.datasets.load import DATASET_NAMES
from cafe.datasets.manifest import SUFFIXES
from cafe.encoders.weights import is_published
from cafe.errors import CacheError, UnknownNameError
from cafe.extract.extractor import Extractor
from cafe.extract.prepare import load_named
from cafe.progress import Note, Progress
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, cache_name, caches_of, safe_name


@dataclass(frozen=True)
class Source:
    """A cache, and where its images are.

    Attributes
    ----------
    cache : FeatureCache
    root : Path or None
        Folder that the ids are relative to.
    origin : mapping of str to str
        How the dataset was named, for `cafe.relabel`.
    """

    cache: FeatureCache
    root: Path | None = None
    origin: Mapping[str, str] = field(default_factory=dict)


def find_source(
    source: Dataset | FeatureCache | Path | str | None,
    extractor: Extractor,
    how: Mapping[str, Any],
    folder: Path | str | None,
    progress: Progress | None,
    note: Note,
) -> Source:
    """What `cafe.check` takes; a dataset is encoded, or its cache brought up to date.

    Raises
    ------
    CafeError
        If the dataset or the cache cannot be had.
    """
    if isinstance(source, FeatureCache):
        return Source(source)
    if not isinstance(source, Dataset) and not _is_dataset(source):
        try:
            return Source(FeatureCache.open(source, cache_folder=folder))
        except (CacheError, UnknownNameError):
            if str(source) not in DATASET_NAMES:
                raise
    assert source is not None  # noqa: S101 - the newest cache is there, or it was refused
    dataset = load_named(
        source,
        how["template"],
        how["class_names"],
        None,
        data_root=how["data_root"],
        split_file=how["split_file"],
        download=False,
        allow_missing=False,
    )
    check_labelled(dataset.name, dataset.class_names)
    extractor = _as_before(extractor, dataset.name, folder, note)
    made = extractor.extract(
        dataset, prompts=how["prompts"], cache=folder, progress=progress, note=note
    )
    named = {"dataset": source, **how, "prompts": None}
    origin = {
        name: str(Path(value).absolute() if Path(value).exists() else value)
        for name, value in named.items()
        if isinstance(value, str | Path)
    }
    return Source(made, dataset.root, origin)


def _as_before(
    extractor: Extractor, dataset: str, folder: Path | str | None, note: Note
) -> Extractor:
    """With the encoder of the newest cache of the dataset, where none is named."""
    if extractor.model is not None or extractor.pretrained is not None:
        return extractor
    for path in caches_of(cache_folder(folder), safe_name(dataset))[:1]:
        with suppress(CacheError):
            header = FeatureCache.open(path).header
            if is_published(header.model, header.pretrained):
                note(f"encoder: {header.model}, as in the cache {cache_name(path)}.")
                return replace(extractor, model=header.model, pretrained=header.pretrained)
    return extractor


def _is_dataset(source: Path | str | None) -> bool:
    """Whether it is a folder or a table; a file of another kind may be a cache."""
    if source is None:
        return False
    path = Path(source)
    try:
        return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)
    except (OSError, ValueError):
        return False
