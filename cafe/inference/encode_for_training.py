"""What `cafe.train` learns from, encoded: the images of its dataset, and those of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cafe.datasets.dataset import Dataset, are_unlabelled, check_labelled
from cafe.datasets.load import short_name
from cafe.errors import CacheMismatchError, InputError
from cafe.extract.extractor import Extractor
from cafe.inference.model_words import unreadable
from cafe.progress import Progress
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, cache_name, caches_of
from cafe.study.pool import PoolLike


def find_pool(pool: PoolLike, folder: Path | str | None) -> PoolLike:
    """Open the cache that a pool names; a folder of images stays its path.

    Of labelled images in a folder that have a cache already, the cache is meant. Images without
    labels are brought up to date.

    Raises
    ------
    CafeError
        If there is neither.
    """
    if not isinstance(pool, str | Path):
        return pool
    if pool != "" and Path(pool).is_dir():
        made = map(FeatureCache.open, caches_of(cache_folder(folder), str(pool)))
        if all(are_unlabelled(cache.header.class_names) for cache in made):
            return Path(pool)
    return FeatureCache.open(pool, cache_folder=folder)


@dataclass(frozen=True)
class Encoding:
    """How images become caches.

    Attributes
    ----------
    extractor : Extractor
    how : mapping
        More of `Extractor.extract` for the dataset; of it `cache` and `on_error` for a pool.
    progress, note : callable, optional
    """

    extractor: Extractor
    how: Mapping[str, Any]
    progress: Progress | None
    note: Callable[[str], None] | None

    def features_of(self, source: Dataset | FeatureCache) -> FeatureCache:
        """The cache to train on, brought up to date with its dataset."""
        if isinstance(source, FeatureCache):
            cache = source
            check_labelled(cache.header.dataset, cache.header.class_names)
        else:
            check_labelled(source.name, source.class_names)
            cache = self._extract(self.extractor, source, self.how)
        if self.note is not None and cache.header.skipped:
            self.note(
                f"{unreadable(cache)}; 'cafe cache show {cache_name(cache.path)}' lists them with "
                "the reason."
            )
        return cache

    def pool_for(self, cache: FeatureCache, pool: PoolLike | None) -> PoolLike | None:
        """A pool for a cache; a folder of images is encoded by the same encoder."""
        if not isinstance(pool, str | Path):
            return pool
        extractor, names = self.extractor, cache.header
        if short_name(Path(pool)) == names.dataset:
            raise InputError(
                f"the pool '{pool}' has the name of the dataset, whose cache it would replace; "
                "rename the folder, or name the dataset otherwise with name=."
            )
        if extractor.model is None:
            extractor = replace(extractor, model=names.model, pretrained=names.pretrained)
        how = {name: self.how[name] for name in ("cache", "on_error")}
        try:
            return self._extract(extractor, pool, how)
        except CacheMismatchError as error:
            why = str(error).rsplit(". ", 1)[0].removesuffix(".")  # then comes advice on a dataset
            raise CacheMismatchError(
                f"{why}. Rename the folder '{pool}', or encode it with 'cafe extract' under a name "
                "of its own and give that with pool=."
            ) from error

    def _extract(
        self, extractor: Extractor, source: Dataset | Path | str, how: Mapping[str, Any]
    ) -> FeatureCache:
        cache = extractor.extract(source, progress=self.progress, note=self.note, **how)
        if self.note is not None and not extractor.extraction_.was_there:
            self.note(f"{cache_name(cache.path)}: {extractor.extraction_}.")
        return cache
