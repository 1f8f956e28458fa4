"""The training images nearest to a new image, among those that a head was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cafe.datasets.text_files import distinct_names
from cafe.errors import (
    CacheMismatchError,
    CacheNotFoundError,
    InputError,
    escape_bytes,
    unescape_bytes,
)
from cafe.features.splits import draw_shots
from cafe.results.saved_head import SavedHead
from cafe.store import FeatureCache
from cafe.store.key import differences
from cafe.store.paths import cache_folder, cache_path


@dataclass(frozen=True)
class Neighbour:
    """A training image near to a new one.

    Attributes
    ----------
    image : str
        Its id in the cache: for files, the path below the dataset's folder.
    label : str
        Its class.
    cosine : float
        Cosine similarity of the two features.
    """

    image: str
    label: str
    cosine: float


class NeighbourIndex:
    """Search by cosine among images.

    Parameters
    ----------
    x : Tensor
        Their raw features. (M, D)
    images : sequence of (str, str)
        Their ids and classes. (M,)
    """

    def __init__(self, x: Tensor, images: Sequence[tuple[str, str]]) -> None:
        import faiss

        self._images = images
        self._index = faiss.IndexFlatIP(x.shape[1])  # inner products of unit vectors
        self._index.add(normalize(x.float(), dim=-1).contiguous().numpy())

    @classmethod
    def of_head(cls, saved: SavedHead, cache: FeatureCache) -> NeighbourIndex:
        """The images that a head was fitted on: the shots of a run, all images of a model.

        Parameters
        ----------
        saved : SavedHead
            Has shots and, of a run, the seed of the draw.
        cache : FeatureCache
            The cache that the head was fitted on.

        Raises
        ------
        CacheMismatchError
            If it is another cache. The difference is named.
        InputError
            If the head does not say which shots it was fitted on.
        """
        check_cache_of_head(saved, cache)
        classes, parts = distinct_names(cache.header.class_names), []
        images = list[tuple[str, str]]()
        for split, rows in rows_of_head(saved, cache).items():
            labels, ids = cache.labels(split), cache.ids(split)
            images += [(ids[row], classes[int(labels[row])]) for row in rows]
            features = cache.read(split, rows, views=False, dtype=np.float32).features
            parts.append(torch.from_numpy(features))
        return cls(torch.cat(parts), images)  # (M, D)

    def nearest(self, x: Tensor, count: int = 3) -> list[tuple[Neighbour, ...]]:
        """The nearest training images of each feature.

        Parameters
        ----------
        x : Tensor
            Raw image features. (N, D)
        count : int
            How many of each; all if there are fewer.
        """
        queries = normalize(x, dim=-1).contiguous().numpy()
        cosines, rows = self._index.search(queries, min(count, len(self._images)))
        pairs = zip(rows.tolist(), cosines.tolist(), strict=True)
        return [tuple(map(self._neighbour, *pair)) for pair in pairs]

    def _neighbour(self, row: int, cosine: float) -> Neighbour:
        image, label = self._images[row]
        return Neighbour(escape_bytes(image), label, round(cosine, 4))


def check_cache_of_head(saved: SavedHead, cache: FeatureCache) -> None:
    """Refuse another cache than the one that a head was fitted on; the difference is named."""
    if different := differences(cache.header.key, saved.about["cache_key"]):
        raise CacheMismatchError(
            f"'{cache.path}' is not the cache that the head was fitted on: "
            f"{'; '.join(different)}. Bring that one back, or fit again."
        )


def rows_of_head(saved: SavedHead, cache: FeatureCache) -> dict[str, NDArray[np.int64]]:
    """The images of each split that a head was fitted on: a run's shots, all images of a model.

    Raises
    ------
    InputError
        If the head does not say it.
    """
    if "shots" not in saved.about:
        raise InputError("the head does not say its shots and seed; fit again.")
    shots, seed = saved.about["shots"], saved.about.get("seed")
    splits = ("train",) if seed is not None else tuple(cache.counts)
    labels = {split: torch.from_numpy(cache.labels(split)) for split in splits}
    return {split: draw_shots(y, shots, seed or 0).numpy() for split, y in labels.items()}


def find_cache(saved: SavedHead, file: Path, folder: Path | None = None) -> FeatureCache:
    """Find the cache of a head: in the cache folder, where it was, or beside the folder of runs.

    Parameters
    ----------
    saved : SavedHead
    file : Path
        The head's file.
    folder : Path, optional
        The cache folder; None is `$CAFE_CACHE`, else `./cache`.

    Raises
    ------
    CacheNotFoundError
        If it is in none of these places.
    """
    about = saved.about
    if isinstance(about.get("cache"), list):
        raise CacheNotFoundError("the head was fitted on several caches; give a head of one.")
    recorded = Path(unescape_bytes(about.get("cache", "")))
    names = about["encoder"]["model"], about["encoder"]["pretrained"]
    # the head is <work>/runs/<run>/<head>, and the cache was recorded relative to <work>
    above = file.absolute().parents
    work = above[min(2, len(above) - 1)]
    own = cache_path(cache_folder(folder), about["dataset"], *names)
    for path in (own, recorded, work / recorded):
        if path.is_file():
            return FeatureCache.open(path)
    raise CacheNotFoundError(
        f"the cache '{recorded}' that the head was fitted on is not here; name its folder with "
        "cache=."
    )
