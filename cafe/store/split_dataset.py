"""One split of a cache as a dataset of torch, and as a table of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cafe.compat import import_pandas
from cafe.errors import escape_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

    from cafe.store.read import FeatureCache


class CacheSplit(Dataset[tuple[Tensor, int]]):
    """One split of a cache: raw features and class indices, read from the file when asked for.

    A loader asks for a batch at a time, in any order, and its workers may be processes.

    Attributes
    ----------
    cache : FeatureCache
    split : {"train", "val", "test"}
    classes : tuple of str
        Names of the classes. (C,)
    targets : Tensor
        Class indices of all images, int64. (N,)

    Examples
    --------
    >>> train = cafe.FeatureCache.open("digits/nano.glyphs").dataset("train")
    >>> x, y = next(iter(torch.utils.data.DataLoader(train, batch_size=8)))
    >>> x.shape, train.classes[y[0]] in train.classes
    (torch.Size([8, 512]), True)
    """

    def __init__(self, cache: FeatureCache, split: str) -> None:
        self.cache, self.split = cache, split
        self.targets = torch.from_numpy(cache.labels(split))
        self.classes = tuple(cache.header.class_names)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """The raw feature (D,) of an image, float32, and its class index."""
        count, row = len(self), index(row)
        if not -count <= row < count:
            raise IndexError(f"row {row} of a split with {count} images")
        return self.__getitems__([row % count])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The same of several images, which are read together."""
        read = self.cache.read(self.split, list(rows), views=False, dtype=np.float32)
        return list(zip(torch.from_numpy(read.features), read.labels.tolist(), strict=True))


def cache_frame(cache: FeatureCache, split: str | None, *, features: bool) -> DataFrame:
    """One split, or all of them, as a table; see `FeatureCache.frame`."""
    splits = list(cache.counts) if split is None else [split]
    frames = [_split_frame(cache, name, features=features) for name in splits]
    return frames[0] if len(frames) == 1 else import_pandas().concat(frames, ignore_index=True)


def _split_frame(cache: FeatureCache, split: str, *, features: bool) -> DataFrame:
    pandas, y = import_pandas(), cache.labels(split)
    names = np.array(list(cache.header.class_names), object)
    frame = pandas.DataFrame(
        {"id": list(map(escape_bytes, cache.ids(split))), "split": split, "label": names[y], "y": y}
    )
    if not features:
        return frame
    x = cache.read(split, views=False, dtype=np.float32).features
    columns = [f"f{d}" for d in range(cache.width)]
    return frame.join(pandas.DataFrame(x, columns=columns, copy=False))
