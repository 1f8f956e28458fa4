"""The training images that speak for an answer: faiss over the shots of a saved head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import CacheMismatchError, CacheNotFoundError
from cafe.features.splits import draw_shots
from cafe.results.saved_head import SavedHead
from cafe.store import FeatureCache
from cafe.store.key import differences
from cafe.store.paths import cache_folder, cache_path

if TYPE_CHECKING:
    import faiss


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
        Of the two features.
    """

    image: str
    label: str
    cosine: float


class NeighbourIndex:
    """The training images that a head was fitted on, to be searched by cosine.

    Parameters
    ----------
    saved : SavedHead
        Tells shots and seed of the draw.
    cache : FeatureCache
        The cache that it was fitted on.

    Raises
    ------
    CacheMismatchError
        If the cache was made differently; the difference is named.
    """

    def __init__(self, saved: SavedHead, cache: FeatureCache) -> None:
        different = differences(cache.header.key, saved.about["cache_key"])
        if different:
            raise CacheMismatchError(
                f"'{cache.path}' is not the cache that the head was fitted on: "
                f"{'; '.join(different)}. Bring that one back, or fit again."
            )
        labels = torch.from_numpy(cache.labels("train"))
        rows = draw_shots(labels, saved.about["shots"], saved.about["seed"]).numpy()
        ids, classes = cache.ids("train"), cache.header.class_names
        self._shots = [(ids[row], classes[int(labels[row])]) for row in rows]
        found = cache.read("train", rows, views=False, dtype=np.float32).features  # (M, D)
        self._index = _index(torch.from_numpy(found))

    def nearest(self, x: Tensor, count: int = 3) -> list[tuple[Neighbour, ...]]:
        """The nearest training images of each feature.

        Parameters
        ----------
        x : Tensor
            Raw image features. (N, D)
        count : int
            How many of each, or all where there are fewer.
        """
        queries = normalize(x, dim=-1).contiguous().numpy()
        cosines, rows = self._index.search(queries, min(count, len(self._shots)))
        found = zip(rows.tolist(), cosines.tolist(), strict=True)
        return [tuple(map(self._neighbour, *pair)) for pair in found]

    def _neighbour(self, row: int, cosine: float) -> Neighbour:
        image, label = self._shots[row]
        return Neighbour(image, label, round(cosine, 4))


def find_cache(saved: SavedHead, file: Path, home: Path | None = None) -> FeatureCache:
    """Find the cache of a head in the cache folder, where it was, or beside the folder of runs.

    Parameters
    ----------
    saved : SavedHead
    file : Path
        The head's file.
    home : Path, optional
        The cache folder; None is `$CAFE_CACHE`, else `./cache`.

    Raises
    ------
    CacheNotFoundError
        If it is in none of these places.
    """
    about, told = saved.about, Path(saved.about.get("cache", ""))
    named = about["encoder"]["model"], about["encoder"]["pretrained"]
    above = file.absolute().parents  # <work>/runs/<run>/, and the cache is told relative to <work>
    places = [cache_path(cache_folder(home), about["dataset"], *named), told]
    for path in [*places, above[min(2, len(above) - 1)] / told]:
        if path.is_file():
            return FeatureCache.open(path)
    raise CacheNotFoundError(
        f"the cache '{told}' that the head was fitted on is not here; name its folder with --cache."
    )


def _index(features: Tensor) -> faiss.IndexFlatIP:
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(normalize(features, dim=-1).contiguous().numpy())
    return index
