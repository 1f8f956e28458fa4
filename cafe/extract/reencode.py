"""A random sample of a cache's images, encoded again and compared."""

from __future__ import annotations

import numpy as np
import torch

from cafe.datasets.dataset import Dataset
from cafe.datasets.make_split import keep_splits
from cafe.datasets.text_files import quote_some
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import quiet_pillow
from cafe.encoders.recorded import WEIGHTS, check_recorded_encoder, record_of_cache
from cafe.errors import CacheMismatchError, InputError, counted, verb
from cafe.extract.dataset_diff import cached_splits
from cafe.extract.decode import decode_item
from cafe.extract.encode import encode_batch
from cafe.extract.file_states import changed_images
from cafe.store import FeatureCache


def reencode_sample(
    cache: FeatureCache, dataset: Dataset, encoder: Encoder, count: int, seed: int = 0
) -> float:
    """Encode some images of a cache again and compare them with their features.

    Parameters
    ----------
    cache : FeatureCache
    dataset : Dataset
        The dataset of the cache.
    encoder : Encoder
        The encoder of the cache.
    count : int
        Images to encode, over all splits; all of them where there are fewer.
    seed : int
        Seed of the random sample.

    Returns
    -------
    float
        The lowest cosine between an image's new feature and its stored one.

    Raises
    ------
    InputError
        If the count is below 1.
    CacheMismatchError
        If the dataset, its files or the encoder's weights are not those of the cache.
    """
    if count < 1:
        raise InputError(f"a sample needs at least 1 image; got {count}.")
    dataset = keep_splits(dataset, cached_splits(cache))
    if cache.header.key.get("dataset_sha256") != dataset.fingerprint():
        raise CacheMismatchError(
            f"'{cache.path}' was made from another dataset than this '{dataset.name}' "
            "(dataset_sha256 differs); name the one that it was made from."
        )
    changed = changed_images(cache, dataset)
    if changed:
        raise CacheMismatchError(
            f"{counted(len(changed), 'image')} of '{dataset.name}' {verb(len(changed), 'have')} "
            f"changed since '{cache.path}' was made ({quote_some(changed)}); extract it "
            "again."
        )
    check_recorded_encoder(record_of_cache(cache), encoder, WEIGHTS)
    rows = [(split, row) for split, size in cache.counts.items() for row in range(size)]
    # drawn over all splits, so that a small sample does not favour a small split
    sample = np.random.default_rng(seed).permutation(len(rows))[:count]
    lowest = 1.0
    for split in cache.counts:
        split_rows = [rows[i][1] for i in sample if rows[i][0] == split]
        if split_rows:
            lowest = min(lowest, _lowest_cosine(cache, dataset, encoder, split, split_rows))
    return lowest


def _lowest_cosine(
    cache: FeatureCache, dataset: Dataset, encoder: Encoder, split: str, rows: list[int]
) -> float:
    ids, items = cache.ids(split), {item.id: item for item in dataset.splits[split]}
    with quiet_pillow():
        images = [
            decode_item(dataset, items[ids[row]], encoder.preprocess, strict=True) for row in rows
        ]
    again = torch.from_numpy(encode_batch(encoder, images, None).features[:, 0])  # (n, D)
    stored = torch.from_numpy(cache.read(split, rows, dtype=np.float32).features)  # (n, D)
    return float(torch.nn.functional.cosine_similarity(again, stored).min())
