"""Features of any origin in one form, checked, and written as a cache a few megabytes at a time."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe.errors import CacheFormatError
from cafe.extract.importers.classes import ClassList, ImportOptions, TextFeatures, make_class_list
from cafe.extract.importers.content import (
    SplitContent,
    notes_on_classes,
    notes_on_images,
    read_content,
)
from cafe.extract.importers.split_features import SplitFeatures
from cafe.extract.importers.zero_shot_check import ZeroShotCheck
from cafe.store import SPLITS, FeatureCache, Header, utc_now, write_cache
from cafe.store.equal_texts import class_weights
from cafe.store.files import digest_of_file
from cafe.store.key import Key, digest, digest_of_array, digest_of_names
from cafe.store.paths import cache_name


@dataclass(frozen=True)
class FeatureSet:
    """What an importer reads.

    Attributes
    ----------
    source : Path
        The file or folder that is imported.
    description : str
        What the features are, for the cache's `source`.
    splits : mapping of str to SplitFeatures
    files : sequence of Path
        Every file that was read: their content is part of the cache's key.
    text : TextFeatures or None
        Text features in the source.
    class_names : tuple of str
        Class names in the source, in the order of the labels; empty if it has none.
    notes : sequence of str
        What of the source is left out, or was assumed of it, a line each.
    """

    source: Path
    description: str
    splits: Mapping[str, SplitFeatures]
    files: Sequence[Path]
    text: TextFeatures | None = None
    class_names: tuple[str, ...] = ()
    notes: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Feature width D of the first split."""
        return next(iter(self.splits.values())).width


_NO_TEXT = (
    "it holds no text features of the classes, and none are given: methods that need them are left "
    "out (text=, or classes= with encode=True, adds them)"
)


def write_feature_set(
    features: FeatureSet,
    options: ImportOptions,
    path: Path,
    note: Callable[[str], None] | None = None,
    check: Callable[[list[ZeroShotCheck]], None] | None = None,
) -> FeatureCache:
    """Write imported features as a cache; see `import_features` for what is told before.

    Raises
    ------
    CacheFormatError
        If classes do not fit, splits differ in width, or a number is not finite; nothing is
        written.
    CacheError
        If the cache cannot be written.
    """
    classes = make_class_list(options, features)
    splits = {split: features.splits[split] for split in SPLITS if split in features.splits}
    for images in splits.values():
        images.check_classes(classes)
    _check_distinct(features)
    # every number is read once before anything is written
    weights = class_weights(classes.text_features)  # (C, D)
    contents = {
        split: read_content(split, images.blocks(split), weights)
        for split, images in splits.items()
    }
    if check is not None and classes.has_text:
        check([content.check for content in reversed(contents.values())])
    if note is not None:
        for line in (
            *features.notes,
            *([] if classes.has_text else [_NO_TEXT]),
            *notes_on_classes(classes, features.class_names, options),
            *notes_on_images(contents, classes.class_names),
        ):
            note(f"{features.source.name}: {line}.")
    is_unit = all(content.is_unit for content in contents.values())
    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    header = Header(
        key=_key(features, classes, contents, options.label),
        dataset=dataset,
        model=model,
        pretrained=pretrained,
        **classes._asdict(),
        source=features.description if is_unit else features.description.removeprefix("unit "),
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=utc_now(),
    )
    write_cache(path, header, {split: images.blocks(split) for split, images in splits.items()})
    return FeatureCache.open(path)


def _check_distinct(features: FeatureSet) -> None:
    """No image that has a name is in two splits."""
    split_of: dict[str, str] = {}
    for split, images in features.splits.items():
        for name in images.ids:
            if split_of.setdefault(name, split) != split:
                raise CacheFormatError(
                    f"'{features.source}': '{name}' is in {split_of[name]} and in {split}; an "
                    "image may be in one split only."
                )


def _key(
    features: FeatureSet,
    classes: ClassList,
    contents: Mapping[str, SplitContent],
    label: str | None,
) -> Key:
    """One file is known by its digest, several files by the digest of their digests."""
    digests = {file.name: digest_of_file(file) for file in features.files}
    content = digest(digests) if len(digests) > 1 else next(iter(digests.values()))
    return {
        "imported_from": features.source.name,
        "imported_sha256": content,
        "text_sha256": digest_of_array(classes.text_features) if classes.has_text else None,
        "class_names_sha256": digest_of_names(classes.class_names),
        "logit_scale": classes.logit_scale,
        "logit_bias": classes.logit_bias,
        "label": label,
        "images_sha256": digest({split: content.sha256 for split, content in contents.items()}),
    }
