"""Features in files of arrays: cafe's npz, Tip-Adapter's folders and CLIP_benchmark's.

Tip-Adapter (Zhang et al. 2022, arXiv 2111.03930) writes the K shots of each class to
`keys_Kshots.pt`, one unit column per image (the mean of ten augmented views), and one-hot rows to
`values_Kshots.pt`. The unit features of the other splits are `val_f.pt` and `test_f.pt`, their
labels `val_l.pt` and `test_l.pt`.

CLIP_benchmark's linear probe writes unit features to `features_SPLIT.pt` and labels to
`targets_SPLIT.pt`. Older versions call the test split "val". Newer ones write "test", and their
"val" is held out of train.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import quote_some
from cafe.errors import CacheFormatError, InputError, counted
from cafe.extract.importers.arrays import names_in_npz, open_npz, read_array, read_npz
from cafe.extract.importers.classes import ImportOptions, text_of_npz
from cafe.extract.importers.feature_set import FeatureSet
from cafe.extract.importers.split_features import Shard, SplitFeatures
from cafe.store import SPLITS

_TEXT_ARRAYS = ("text_prompts", "class_names", "logit_scale")
_KEYS = re.compile(r"keys_([0-9]+)shots\.pt")


def read_npz_file(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read an npz file, cafe's own exchange format; None where the source is no file."""
    if not source.is_file():
        return None
    parts = [f"{split}_{part}" for split in SPLITS for part in ("features", "labels")]
    # checked as a whole; features stay in the file
    arrays = read_npz(source, (*_TEXT_ARRAYS, *(f"{split}_labels" for split in SPLITS)))
    opened = open_npz(source, [f"{split}_features" for split in SPLITS])
    has_text = options.text is not None or "text_prompts" in arrays
    if has_text and not options.known_names() and "class_names" not in arrays:
        raise CacheFormatError(
            f"'{source}' has no class_names; found "
            f"{', '.join(sorted({*arrays, *opened})) or 'nothing'}. Give "
            "them with classes=."
        )
    splits = {}
    for split in SPLITS:
        features, labels = f"{split}_features", f"{split}_labels"
        if features in opened:
            if labels not in arrays:
                raise CacheFormatError(f"'{source}': {features} need as many {labels}; found none.")
            shards = [Shard(opened[features])]
            splits[split] = SplitFeatures(source, (features, labels), arrays[labels], shards)
    if not splits:
        raise CacheFormatError(f"'{source}' has no split: it needs train_features and so on.")
    text = None if options.text else text_of_npz(source, arrays)
    used = {*parts, *(() if options.text else _TEXT_ARRAYS)}
    notes = _left_out("arrays", [name for name in names_in_npz(source) if name not in used])
    description = f"imported from {source.name}"
    return FeatureSet(source, description, splits, [source], text, notes=notes)


def _left_out(kind: str, names: Sequence[str]) -> list[str]:
    return [f"left out: {len(names)} {kind}: {quote_some(names, 6)}"] if names else []


def _other_files(source: Path, files: Sequence[Path]) -> list[str]:
    return _left_out("files", sorted(path.name for path in source.iterdir() if path not in files))


def read_tip_adapter(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read a cache folder of Tip-Adapter; None where the source is none."""
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
        files += [source / f"keys_{shots}shots.pt", source / f"values_{shots}shots.pt"]
        splits["train"] = _read_shots(source, *files)
        description += f", {counted(shots, 'shot')} (means of augmented views)"
    for split in ("val", "test"):
        pair = source / f"{split}_f.pt", source / f"{split}_l.pt"
        if pair[0].is_file():
            splits[split] = _read_split(source, *pair)
            files += pair
    description += f", imported from {source.name}"
    return FeatureSet(source, description, splits, files, notes=_other_files(source, files))


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
    # one column per image, unless the file was transposed
    shard = Shard(features.T if features.shape[1] == len(labels) else features)
    names, classes = (keys.name, values.name), one_hot.shape[1]
    return SplitFeatures(source, names, labels, [shard], class_count=classes)


def read_clip_benchmark(source: Path, _: ImportOptions) -> FeatureSet | None:
    """Read a feature folder of CLIP_benchmark; None where the source is none."""
    splits: dict[str, SplitFeatures] = {}
    files: list[Path] = []
    notes: list[str] = []
    description = f"unit features of CLIP_benchmark, imported from {source.name}"
    has_test = (source / "features_test.pt").is_file()
    for split in SPLITS:
        pair = source / f"features_{split}.pt", source / f"targets_{split}.pt"
        if not pair[0].is_file():
            continue
        is_test = split == "val" and not has_test
        splits["test" if is_test else split] = _read_split(source, *pair)
        files += pair
        if is_test:
            notes += ["its 'val' is the test split"]
    if not splits:
        return None
    description = "; ".join([description, *notes])
    notes += _other_files(source, files)
    return FeatureSet(source, description, splits, files, notes=notes)


def _read_split(source: Path, features: Path, labels: Path) -> SplitFeatures:
    """A split whose features and labels are a file each."""
    names, shards = (features.name, labels.name), [Shard(read_array(features))]
    return SplitFeatures(source, names, read_array(labels), shards)
