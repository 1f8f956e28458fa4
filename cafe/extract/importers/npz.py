"""Features in one npz file: cafe's own exchange format, which `cafe cache export` writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cafe.errors import CacheFormatError
from cafe.extract.importers.arrays import read_npz
from cafe.extract.importers.class_list import ClassList, classes_of
from cafe.extract.importers.feature_set import FeatureSet, Images, Shard, check_images
from cafe.extract.importers.text import text_of_npz
from cafe.store import SPLITS

FORM = "an .npz file with train_features, train_labels and so on"

_TEXT = ("text_prompts", "class_names", "logit_scale")


def fits(source: Path) -> bool:
    """Whether it is such a file, by its name."""
    return source.is_file()


def read_features(source: Path, given: ClassList) -> FeatureSet:
    """Read the file; see `cafe.extract.importers.import_features`."""
    parts = [f"{split}_{part}" for split in SPLITS for part in ("features", "labels")]
    arrays = read_npz(source, (*_TEXT, *parts))
    _refuse_missing(source, arrays, given)
    if given.text is None:
        given = replace(given, text=text_of_npz(source, arrays))
    present = [split for split in SPLITS if f"{split}_features" in arrays]
    if not present:
        raise CacheFormatError(f"'{source}' has no split: it needs train_features and so on.")
    splits = {split: _images(source, arrays, split) for split in present}
    classes = classes_of(given, source, next(iter(splits.values())).width)
    return FeatureSet(source, f"imported from {source.name}", classes, splits, [source])


def _refuse_missing(source: Path, arrays: dict[str, NDArray[Any]], given: ClassList) -> None:
    wanted = {
        "text_prompts": given.text is None,
        "class_names": not (given.class_names or (given.text and given.text.class_names)),
    }
    missing = [name for name, needed in wanted.items() if needed and name not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise CacheFormatError(
            f"'{source}' has no {' and no '.join(missing)}; found {found}. --text FILE and "
            "--classes FILE give them."
        )


def _images(source: Path, arrays: dict[str, NDArray[Any]], split: str) -> Images:
    names = f"{split}_features", f"{split}_labels"
    if names[1] not in arrays:
        raise CacheFormatError(f"'{source}': {names[0]} need as many {names[1]}; found none.")
    return check_images(source, Images(names, arrays[names[1]], [Shard(arrays[names[0]])]))
