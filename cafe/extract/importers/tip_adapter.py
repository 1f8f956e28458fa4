"""Cache folders of Tip-Adapter (Zhang et al. 2022, arXiv 2111.03930) and of methods based on it.

The authors' code writes the K shots of each class to `keys_Kshots.pt`, one unit column per image
(the mean of ten augmented views), and one-hot rows to `values_Kshots.pt`. The unit features of the
other splits are `val_f.pt` and `test_f.pt`, their labels `val_l.pt` and `test_l.pt`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.class_list import ImportOptions
from cafe.extract.importers.feature_set import FeatureSet, Shard, SplitFeatures

FORM = "a folder of Tip-Adapter (keys_Kshots.pt, values_Kshots.pt, test_f.pt, test_l.pt)"

_KEYS = re.compile(r"keys_([0-9]+)shots\.pt")


def read_features(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read the folder; None where the source is none of Tip-Adapter."""
    names = [file.name for file in source.iterdir()] if source.is_dir() else []
    counts = sorted(int(match[1]) for match in map(_KEYS.fullmatch, names) if match)
    if not counts and "test_f.pt" not in names:
        return None
    shots = max(counts, default=None) if options.shots is None else options.shots
    if shots is not None and shots not in counts:
        raise InputError(
            f"'{source}' has no keys_{shots}shots.pt; it has shots "
            f"{', '.join(map(str, counts)) or 'of no number'}."
        )
    splits, files, description = {}, [], "unit features of Tip-Adapter"
    if shots is not None:
        keys, values = source / f"keys_{shots}shots.pt", source / f"values_{shots}shots.pt"
        splits["train"] = _read_shots(source, keys, values)
        files += [keys, values]
        description += f", {shots} shots (means of augmented views)"
    for split in ("val", "test"):
        features, labels = source / f"{split}_f.pt", source / f"{split}_l.pt"
        if features.is_file():
            shards = [Shard(read_array(features))]
            splits[split] = SplitFeatures(
                source, (features.name, labels.name), read_array(labels), shards
            )
            files += [features, labels]
    return FeatureSet(source, f"{description}, imported from {source.name}", splits, files)


def _read_shots(source: Path, keys: Path, values: Path) -> SplitFeatures:
    features, one_hot = read_array(keys), read_array(values)  # (D, N), (N, C)
    if features.ndim != 2 or one_hot.ndim != 2:
        raise CacheFormatError(
            f"'{source}': {keys.name} must be (D, N) and {values.name} (N, C); found "
            f"{features.shape} and {one_hot.shape}."
        )
    ones, others = (one_hot == 1).sum(axis=1), (one_hot != 0).sum(axis=1)  # (N,)
    if not ((ones == 1) & (others == 1)).all():
        raise CacheFormatError(
            f"'{source}': every row of {values.name} must be one 1 among zeros, the image's class."
        )
    labels: NDArray[np.int64] = one_hot.argmax(axis=1)
    shard = Shard(features.T if features.shape[1] == len(labels) else features)
    return SplitFeatures(source, (keys.name, values.name), labels, [shard])
