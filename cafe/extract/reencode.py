"""A random sample of a cache's images, encoded again and compared."""

from __future__ import annotations

import numpy as np
import torch

from cafe.datasets.base import Dataset
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import quiet_pillow, upright_rgb
from cafe.errors import CacheMismatchError, InputError
from cafe.store import FeatureCache


def reencode_sample(
    cache: FeatureCache, dataset: Dataset, encoder: Encoder, count: int, seed: int = 0
) -> float:
    """Encode some images of a cache again and compare them with their features.

    Parameters
    ----------
    cache : FeatureCache
    dataset : Dataset
        What the cache was made of.
    encoder : Encoder
        What it was made with.
    count : int
        Images to encode, over all splits; all of them where there are fewer.
    seed : int
        Seed of the choice.

    Returns
    -------
    float
        The lowest cosine between an image's new feature and its stored one.

    Raises
    ------
    InputError
        If the count is below 1.
    CacheMismatchError
        If the dataset or the encoder's weights are not the cache's.
    """
    if count < 1:
        raise InputError(f"a sample needs at least 1 image; got {count}.")
    key = cache.header.key
    for part, found in (
        ("dataset_sha256", dataset.fingerprint()),
        ("weights_sha256", encoder.weights_sha256),
    ):
        if key.get(part) != found:
            raise CacheMismatchError(
                f"'{cache.path}' was made of another {part.removesuffix('_sha256')} than the one "
                f"at hand ({part} differs); give the one that it was made of."
            )
    rows = [(split, row) for split, size in cache.counts.items() for row in range(size)]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    lowest = 1.0
    for split in cache.counts:
        ours = [rows[i][1] for i in chosen if rows[i][0] == split]
        if ours:
            lowest = min(lowest, _lowest_cosine(cache, dataset, encoder, split, ours))
    return lowest


def _lowest_cosine(
    cache: FeatureCache, dataset: Dataset, encoder: Encoder, split: str, rows: list[int]
) -> float:
    ids, items = cache.ids(split), {item.id: item for item in dataset.splits[split]}
    pixels = []
    with quiet_pillow():
        for row in rows:
            with dataset.open_image(items[ids[row]]) as image:
                pixels.append(encoder.preprocess.pixels(upright_rgb(image)))
    again = encoder.encode_pixels(torch.from_numpy(np.stack(pixels)))
    stored = torch.from_numpy(cache.read(split, rows, dtype=np.float32).features)
    return float(torch.nn.functional.cosine_similarity(again, stored).min())
