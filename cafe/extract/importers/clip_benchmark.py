"""Feature folders of CLIP_benchmark's linear probe.

They hold unit features as `features_SPLIT.pt` and labels as `targets_SPLIT.pt`. Older versions call
the test split "val"; newer ones write "test", and "val" is what was held out of train.
"""

from __future__ import annotations

from pathlib import Path

from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.class_list import ClassList, classes_of
from cafe.extract.importers.feature_set import FeatureSet, Images, Shard, check_images

FORM = "a folder of CLIP_benchmark (features_train.pt, targets_train.pt, features_test.pt, ...)"

_SPLITS = ("train", "val", "test")


def fits(source: Path) -> bool:
    """Whether it is such a folder, by the names in it."""
    return any((source / f"features_{split}.pt").is_file() for split in _SPLITS)


def read_features(source: Path, given: ClassList) -> FeatureSet:
    """Read the folder; see `cafe.extract.importers.import_features`."""
    there = [split for split in _SPLITS if (source / f"features_{split}.pt").is_file()]
    splits, files = {}, []
    words = f"unit features of CLIP_benchmark, imported from {source.name}"
    for split in there:
        features, targets = source / f"features_{split}.pt", source / f"targets_{split}.pt"
        names = features.name, targets.name
        images = Images(names, read_array(targets), [Shard(read_array(features))])
        is_test = split == "val" and "test" not in there
        splits["test" if is_test else split] = check_images(source, images)
        files += [features, targets]
        words += "; its 'val' is the test split" if is_test else ""
    classes = classes_of(given, source, next(iter(splits.values())).width)
    return FeatureSet(source, words, classes, splits, files)
