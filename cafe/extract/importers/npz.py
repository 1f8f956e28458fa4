"""Features in one npz file: cafe's own exchange format, which `cafe cache export` writes."""

from __future__ import annotations

from pathlib import Path

from cafe.errors import CacheFormatError
from cafe.extract.importers.arrays import read_npz
from cafe.extract.importers.class_list import ImportOptions
from cafe.extract.importers.feature_set import FeatureSet, Shard, SplitFeatures
from cafe.extract.importers.text_features import text_of_npz
from cafe.store import SPLITS

FORM = "an .npz file with train_features, train_labels and so on"


def read_features(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read the file; None where the source is no file."""
    if not source.is_file():
        return None
    parts = [f"{split}_{part}" for split in SPLITS for part in ("features", "labels")]
    arrays = read_npz(source, ("text_prompts", "class_names", "logit_scale", *parts))
    needed = [] if options.text else ["text_prompts"]
    needed += [] if options.known_names() else ["class_names"]
    if missing := [name for name in needed if name not in arrays]:
        raise CacheFormatError(
            f"'{source}' has no {' and no '.join(missing)}; found "
            f"{', '.join(sorted(arrays)) or 'nothing'}. Give them with text= and classes=."
        )
    splits = {}
    for split in SPLITS:
        features, labels = f"{split}_features", f"{split}_labels"
        if features in arrays:
            if labels not in arrays:
                raise CacheFormatError(f"'{source}': {features} need as many {labels}; found none.")
            shards = [Shard(arrays[features])]
            splits[split] = SplitFeatures(source, (features, labels), arrays[labels], shards)
    if not splits:
        raise CacheFormatError(f"'{source}' has no split: it needs train_features and so on.")
    text = None if options.text else text_of_npz(source, arrays)
    return FeatureSet(source, f"imported from {source.name}", splits, [source], text)
