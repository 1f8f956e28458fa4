"""Cache folders of Tip-Adapter (Zhang et al. 2022, arXiv 2111.03930) and of what grew out of it.

The authors' code keeps the K shots of each class as `keys_Kshots.pt`, a column of unit length for
each (the mean of ten augmented views), with one-hot rows in `values_Kshots.pt`; the unit features
of the other splits are `val_f.pt` and `test_f.pt`, their labels `val_l.pt` and `test_l.pt`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.class_list import ClassList, classes_of
from cafe.extract.importers.feature_set import FeatureSet, Images, Shard, check_images

FORM = "a folder of Tip-Adapter (keys_Kshots.pt, values_Kshots.pt, test_f.pt, test_l.pt)"

_KEYS = re.compile(r"keys_([0-9]+)shots\.pt")


def fits(source: Path) -> bool:
    """Whether it is such a folder, by the names in it."""
    return bool(_shots(source)) or (source / "test_f.pt").is_file()


def read_features(source: Path, given: ClassList) -> FeatureSet:
    """Read the folder; see `cafe.extract.importers.import_features`."""
    splits, files, words = {}, [], "unit features of Tip-Adapter"
    shots = _chosen(source, given.shots)
    if shots is not None:
        keys, values = source / f"keys_{shots}shots.pt", source / f"values_{shots}shots.pt"
        splits["train"] = check_images(source, _shots_of(source, keys, values))
        files += [keys, values]
        words += f", {shots} shots (means of augmented views)"
    for split in ("val", "test"):
        pair = source / f"{split}_f.pt", source / f"{split}_l.pt"
        if pair[0].is_file():
            images = Images((pair[0].name, pair[1].name), read_array(pair[1]), [_part(pair[0])])
            splits[split] = check_images(source, images)
            files += pair
    classes = classes_of(given, source, next(iter(splits.values())).width)
    return FeatureSet(source, f"{words}, imported from {source.name}", classes, splits, files)


def _shots(source: Path) -> list[int]:
    if not source.is_dir():
        return []
    found = (_KEYS.fullmatch(file.name) for file in source.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _chosen(source: Path, asked: int | None) -> int | None:
    there = _shots(source)
    if asked is not None and asked not in there:
        raise InputError(
            f"'{source}' has no keys_{asked}shots.pt; it has shots "
            f"{', '.join(map(str, there)) or 'of no number'}."
        )
    return asked if asked is not None else max(there, default=None)


def _part(file: Path) -> Shard:
    return Shard(read_array(file))


def _shots_of(source: Path, keys: Path, values: Path) -> Images:
    features, one_hot = read_array(keys), read_array(values)
    if features.ndim != 2 or one_hot.ndim != 2:
        raise CacheFormatError(
            f"'{source}': {keys.name} must be (D, N) and {values.name} (N, C); found "
            f"{features.shape} and {one_hot.shape}."
        )
    if features.shape[1] == len(one_hot):
        features = features.T
    return Images((keys.name, values.name), _labels(source, values, one_hot), [Shard(features)])


def _labels(source: Path, values: Path, one_hot: NDArray[Any]) -> NDArray[np.int64]:
    ones, others = (one_hot == 1).sum(axis=1), (one_hot != 0).sum(axis=1)  # (N,)
    if not ((ones == 1) & (others == 1)).all():
        raise CacheFormatError(
            f"'{source}': every row of {values.name} must be one 1 among zeros, the image's class."
        )
    labels: NDArray[np.int64] = one_hot.argmax(axis=1)
    return labels
