"""One cache as tensors: text and labels at once, image features when they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.features.stored_rows import PreProjection, StoredRows
from cafe.features.tensors import LARGE, ClassText, Features
from cafe.store import FeatureCache, Header, SplitArrays


class StoredFeatures:
    """Features of a split that stay on disk: a few-shot fit reads the rows that it draws.

    It reads as `Features` do; whatever needs all of it loads it, once.

    Parameters
    ----------
    cache : FeatureCache
    split : {"train", "val", "test"}
    rows : Tensor, optional
        The part of the split that is meant; None is all of it.

    Attributes
    ----------
    y : Tensor
        Class indices, int64. (N,)
    groups : ndarray or None
        As of `Features`.
    """

    def __init__(self, cache: FeatureCache, split: str, rows: Tensor | None = None) -> None:
        labels = torch.from_numpy(cache.labels(split))
        self._cache, self._split, self._rows = cache, split, rows
        self.y = labels if rows is None else labels[rows]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Features:
        if "whole" in self.__dict__:  # the cached property: all of it is in memory
            return self.whole[rows]
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        return self._read(rows if self._rows is None else self._rows[rows])

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """The image that each box lies on; None where items are images. (N,)"""
        groups = image_groups(self._cache, [self._split])
        return groups if groups is None or self._rows is None else groups[self._rows.numpy()]

    @cached_property
    def whole(self) -> Features:
        """All of it in memory, but for spatial maps."""
        return self._read(self._rows)

    def _read(self, rows: Tensor | None) -> Features:
        count = self._cache.counts[self._split] if rows is None else len(rows)
        numbers = count * self._cache.width * self._cache.views
        # float16 of ImageNet's size stays float16: widened, it takes twice the memory
        read = self._cache.read(
            self._split,
            None if rows is None else rows.cpu().numpy(),
            dtype=None if numbers > LARGE else np.float32,
        )
        groups = image_groups(self._cache, [self._split])
        if groups is not None and rows is not None:
            groups = groups[rows.cpu().numpy()]
        chosen = torch.arange(count) if rows is None else rows
        return _tensors(read, self._maps(chosen), groups, self._before(chosen))

    def _maps(self, rows: Tensor) -> StoredRows | None:
        cache, split = self._cache, self._split
        if not cache.spatial_size:
            return None

        def read(rows: Tensor) -> Tensor:
            return torch.from_numpy(cache.read_spatial_maps(split, rows.numpy(), dtype=np.float32))

        return StoredRows(read, rows, cache.spatial_size)

    def _before(self, rows: Tensor) -> PreProjection | None:
        cache, split = self._cache, self._split
        weight, bias = cache.header.projection, cache.header.projection_bias
        if weight is None or bias is None:
            return None

        def read(rows: Tensor) -> Tensor:
            h = cache.read_pre_projection(split, rows.numpy(), dtype=np.float32)
            return torch.from_numpy(h)

        kept = StoredRows(read, rows, cache.views)
        return PreProjection(kept, torch.from_numpy(weight), torch.from_numpy(bias))

    @property
    def x(self) -> Tensor:
        """Raw image features of all of it. (N, D)"""
        return self.whole.x

    @property
    def views(self) -> Tensor | None:
        """Augmented views of all of it. (N, V, D)"""
        return self.whole.views

    @property
    def unit(self) -> Tensor:
        """L2-normalised features of all of it. (N, D)"""
        return self.whole.unit

    def to(self, device: torch.device | str) -> Features:
        """All of it on a device."""
        return self.whole.to(device)


@dataclass(frozen=True)
class Task:
    """One cache as tensors: the classes' text and the features of every split.

    Attributes
    ----------
    name : str
        Dataset name.
    model, pretrained : str
        The encoder.
    text : ClassText
        Class-text features and the logit scale.
    splits : mapping of str to Features or StoredFeatures
        Keys are among "train", "val" and "test".
    spatial_size : int
        T, positions of an image's spatial map; 0 without maps.
    pre_projection_size : int
        E, width of the features before the projection; 0 where there are none.
    noun : {"image", "box"}
        What its items are.
    """

    name: str
    model: str
    pretrained: str
    text: ClassText
    splits: Mapping[str, Features | StoredFeatures]
    spatial_size: int = 0
    noun: str = "image"
    pre_projection_size: int = 0

    @property
    def width(self) -> int:
        """Feature width D."""
        return self.text.features.shape[-1]


def load_task(cache: FeatureCache) -> Task:
    """Open a cache as tensors: text and labels now, the image features that are asked for later.

    Parameters
    ----------
    cache : FeatureCache

    Raises
    ------
    CacheFormatError
        If a split is damaged.
    """
    header = cache.header
    splits: dict[str, Features | StoredFeatures] = {
        name: StoredFeatures(cache, name) for name in cache.counts
    }
    return Task(
        header.dataset,
        header.model,
        header.pretrained,
        class_text(header),
        splits,
        cache.spatial_size,
        cache.noun,
        cache.pre_projection_size,
    )


def image_groups(
    cache: FeatureCache, splits: Iterable[str] | None = None
) -> NDArray[np.int64] | None:
    """The image that each box lies on, split after split; None where items are images. (N,)"""
    if cache.noun == "image":
        return None
    chosen = cache.counts if splits is None else splits
    names = [image_of(name) for split in chosen for name in cache.ids(split)]
    groups: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return groups


def image_of(name: str) -> str:
    """The image that a box lies on, by the box's id: `a.jpg` of `a.jpg#0`."""
    return name.rpartition("#")[0]


def class_text(header: Header) -> ClassText:
    """The classes' text as a cache's header holds it."""
    features = torch.from_numpy(header.text_features)
    names = tuple(header.class_names)
    return ClassText(features, names, header.logit_scale, header.logit_bias or 0.0)


def _tensors(
    arrays: SplitArrays,
    maps: StoredRows | None,
    groups: NDArray[np.int64] | None,
    before: PreProjection | None,
) -> Features:
    views = None if arrays.views is None else torch.from_numpy(arrays.views)
    x, y = torch.from_numpy(arrays.features), torch.from_numpy(arrays.labels)
    return Features(x, y, views, maps, groups, before)


def boxes_by_id(cache: FeatureCache, ids: Collection[str]) -> dict[str, list[float]]:
    """Left, top, width and height of these items by their ids; empty where items are images."""
    found: dict[str, list[float]] = {}
    for split in cache.counts if cache.noun == "box" else ():
        boxes = cache.boxes(split)
        for row, name in enumerate(cache.ids(split)):
            if boxes is not None and name in ids:
                found[name] = boxes["xywh"][row].tolist()
    return found
