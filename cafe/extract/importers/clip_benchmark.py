"""Feature folders of CLIP_benchmark's linear probe.

They hold unit features as `features_SPLIT.pt` and labels as `targets_SPLIT.pt`. Older versions call
the test split "val". Newer ones write "test", and their "val" is held out of train.
"""

from __future__ import annotations

from pathlib import Path

from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.class_list import ImportOptions
from cafe.extract.importers.feature_set import FeatureSet, Shard, SplitFeatures

FORM = "a folder of CLIP_benchmark (features_train.pt, targets_train.pt, features_test.pt, ...)"


def read_features(source: Path, _: ImportOptions) -> FeatureSet | None:
    """Read the folder; None where the source is none of CLIP_benchmark."""
    splits, files = {}, []
    description = f"unit features of CLIP_benchmark, imported from {source.name}"
    has_test = (source / "features_test.pt").is_file()
    for split in ("train", "val", "test"):
        features, labels = source / f"features_{split}.pt", source / f"targets_{split}.pt"
        if not features.is_file():
            continue
        is_test = split == "val" and not has_test
        names, shards = (features.name, labels.name), [Shard(read_array(features))]
        splits["test" if is_test else split] = SplitFeatures(
            source, names, read_array(labels), shards
        )
        files += [features, labels]
        description += "; its 'val' is the test split" if is_test else ""
    return FeatureSet(source, description, splits, files) if splits else None
