"""A cache for other libraries: datasets of torch, tables of pandas, and its representation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cafe.store.header import Header
from cafe.store.repr_mixin import ReprMixin, name_some

if TYPE_CHECKING:
    from pandas import DataFrame

    from cafe.store.read import FeatureCache
    from cafe.store.split_dataset import CacheSplit


class CacheInterop(ReprMixin):
    """The conversions of a `FeatureCache` to other libraries, and its representation."""

    path: Path
    header: Header
    counts: Mapping[str, int]
    width: int
    dtype: str

    def dataset(self, split: str) -> CacheSplit:
        """One split as a `torch.utils.data.Dataset` of raw features and class indices.

        Parameters
        ----------
        split : {"train", "val", "test"}

        Raises
        ------
        InputError
            If there is no such split.
        """
        from cafe.store.split_dataset import CacheSplit  # torch is slow to import

        return CacheSplit(cast("FeatureCache", self), split)

    def frame(self, split: str | None = None, *, features: bool = True) -> DataFrame:
        """The images of a split as a table of pandas.

        Parameters
        ----------
        split : {"train", "val", "test"}, optional
            None takes all of them.
        features : bool
            Whether to read the features too.

        Returns
        -------
        DataFrame
            `id`, `split`, `label` (the name), `y` (the index) and the raw features `f0`, `f1`, ...

        Raises
        ------
        InputError
            If there is no such split, or pandas is not installed.
        """
        from cafe.store.split_dataset import cache_frame

        return cache_frame(cast("FeatureCache", self), split, features=features)

    def _title(self) -> str:
        return f"FeatureCache '{self.path}'"

    def _rows(self) -> list[list[str]]:
        header = self.header
        images = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        return [
            ["dataset", header.dataset],
            ["encoder", f"{header.model}.{header.pretrained}"],
            ["classes", name_some(header.class_names)],
            ["images", images],
            ["features", f"{self.width} numbers of {self.dtype}"],
        ]
