"""Folders of images: `<class>/*.jpg`, or `train|val|test/<class>/*`.

Below a class folder images may lie at any depth. `cafe.datasets.list_folder` says what an image is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cafe.datasets.dataset import NO_LABEL
from cafe.datasets.image_list import SPLIT_NAMES, ClassNames, Entry, ImageList, make_image_list
from cafe.datasets.left_out import LeftOut
from cafe.datasets.list_folder import Listing, list_folder, subfolders
from cafe.datasets.make_split import SPLIT_BY_CAFE, make_split
from cafe.datasets.text_files import quote_some
from cafe.errors import DatasetError, InputError, counted, escape_bytes

LOOSE = "images outside of any class folder"

Tops = Mapping[str, Sequence[str]]
"""Folders of the root that hold images -> the paths of these below the folder."""


def class_entries(folder: Path, prefix: str, split: str, left_out: LeftOut) -> list[Entry]:
    """Entries of `<class>/**` in a folder, the class being the first folder of the path.

    Parameters
    ----------
    folder : Path
        Holds the class folders.
    prefix : str
        Put before each path.
    split : str
        Split of the entries.
    left_out : LeftOut
        Counts what is left out, images that lie directly in the folder among it.
    """
    return _entries(list_folder(folder, left_out).images, prefix, split, left_out)


def _entries(paths: Sequence[str], prefix: str, split: str, left_out: LeftOut) -> list[Entry]:
    named = [(path.partition("/"), path) for path in paths]
    if loose := sum(not inside for (_, inside, _), _ in named):
        left_out.add(LOOSE, prefix, loose)
    return [Entry(split, f"{prefix}{path}", name) for (name, inside, _), path in named if inside]


def read_folder(root: Path, class_names: ClassNames = None) -> tuple[ImageList, str]:
    """Read a folder of class folders, or of splits of class folders.

    Parameters
    ----------
    root : Path
        The folder.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None takes the folders' names, underscores as spaces.

    Returns
    -------
    (ImageList, str)
        Its images, and in words which split they have.

    Raises
    ------
    DatasetError
        If there are no images or only one class, or the folder can be read in two ways. A folder
        of images alone is a pool, whose classes are `NO_LABEL`.
    InputError
        If `class_names` does not fit.
    """
    left_out = LeftOut()
    listing = list_folder(root, left_out)
    if listing.images and not listing.folders:
        if class_names is not None:
            raise InputError(
                f"{root} has no class folders, so there are no classes to name; leave class_names= "
                "out, or put the images of each class into a folder."
            )
        rows = [(path, 0) for path in listing.images]  # a cache has two classes or more
        return ImageList(NO_LABEL, {"train": rows}, left_out.lines()), "images without labels"
    tops = _by_top(listing.images)
    splits = _split_folders(root, tops)
    if splits:
        _check_one_reading(root, tops, splits)
        for name in splits:
            _check_no_class_is_a_part(root / name, _by_top(tops[name]))
        entries, source = _split_entries(tops, splits, left_out)
        loose = [path for path in listing.images if "/" not in path]
        _entries(loose, "", "", left_out)
    else:
        _check_no_class_is_a_split(root, tops)
        _check_no_class_is_a_part(root, tops)
        entries, source = _entries(listing.images, "", "", left_out), ""
    _check_classes(root, entries, listing, left_out)
    for name in _without_images(listing, tops, splits):
        left_out.add("folders without images", name)
    unsplit = [] if source else [entry.path for entry in entries]
    if not source:
        entries, source = make_split(entries), f"a folder per class; {SPLIT_BY_CAFE}"
    images = make_image_list(entries, str(root), class_names)
    notes = [*images.notes, *_assumptions(entries, tops, splits), *left_out.lines()]
    return replace(images, notes=notes, unsplit=unsplit), source


def _by_top(paths: Sequence[str]) -> dict[str, list[str]]:
    tops: dict[str, list[str]] = {}
    for name, inside, below in (path.partition("/") for path in paths):
        if inside:
            tops.setdefault(name, []).append(below)
    return tops


def _classes(paths: Sequence[str]) -> set[str]:
    """The folders that the paths begin with."""
    return set(_by_top(paths))


def _split_folders(root: Path, tops: Tops) -> dict[str, str]:
    """Map folders to "train", "val" and "test", where the root is divided so."""
    folders: dict[str, str] = {}
    for name, paths in tops.items():
        split = SPLIT_NAMES.get(name.lower())
        # A class may be called "train": a split holds class folders, a class holds images.
        if split is None or not _classes(paths):
            continue
        if split in folders.values():
            twice = [*(other for other, known in folders.items() if known == split), name]
            raise DatasetError(
                f"{root} has two folders for one split: {quote_some(twice)}; keep one."
            )
        folders[name] = split
    return folders


def _check_one_reading(root: Path, tops: Tops, splits: Mapping[str, str]) -> None:
    """Refuse folders beside the splits, unless the splits are sure and the others hold none."""
    named = [_classes(tops[name]) for name in splits]
    classes = set().union(*named)
    others = [name for name in tops if name not in splits]
    is_sure = sum(map(len, named)) > len(classes)  # two splits share a class
    if not others or (is_sure and not any(_classes(tops[name]) & classes for name in others)):
        return
    left, them = quote_some(others), "it" if len(others) == 1 else "each"
    raise DatasetError(
        f"{root} can be read in two ways: as the splits {quote_some(splits)} of the classes "
        f"{quote_some(sorted(classes))}, which leaves {left} out, or as the classes "
        f"{quote_some(tops)}. For the first, move {left} away or rename {them} to a split (train, "
        f"val, test); for the second, rename {quote_some(splits)}."
    )


_LIKE_SPLIT = re.compile(
    r"(.*[^a-z])?(train(ing)?|val(id|idation)?|test(ing)?|dev|eval|holdout)([^a-z].*)?", re.DOTALL
)


def _check_no_class_is_a_split(root: Path, tops: Tops) -> None:
    like_splits = [n for n, paths in tops.items() if _LIKE_SPLIT.fullmatch(n.lower())]
    unknown = [name for name in like_splits if _classes(tops[name])]
    if unknown:
        raise DatasetError(
            f"{root} can be read in two ways: as splits of names that cafe does not know "
            f"({quote_some(unknown)}), with classes in them, or as the classes {quote_some(tops)}. "
            "For the first, rename the folders to train, val and test; for the second, give them "
            "names without these words, or use a manifest."
        )
    if len(tops) > 1 and all(name.lower() in SPLIT_NAMES for name in tops):
        raise DatasetError(
            f"{root} can be read in two ways: as the splits {quote_some(tops)}, which have no "
            "class folders inside, or as classes of these names. For the first, put the images of "
            f"each class into a folder ({next(iter(tops))}/<class>/); for the second, rename the "
            "folders."
        )


def _check_no_class_is_a_part(root: Path, tops: Tops) -> None:
    """Refuse folders of the same folders: domains, folds or views of classes, or classes."""
    named = [_classes(paths) for paths in tops.values()]
    every = set().union(*named)
    shared = every.intersection(*named)
    are_deep = all("/" in path for paths in tops.values() for path in paths)
    if len(named) > 1 and are_deep and len(shared) > max(1, len(every) // 2):
        raise DatasetError(
            f"{root} can be read in two ways: as the parts {quote_some(tops)}, each with the "
            f"classes {quote_some(sorted(shared))}, or as the classes {quote_some(tops)}. For the "
            "first, name the folder of one part or write a manifest; for the second, move the "
            "images out of the inner folders."
        )


def _split_entries(
    tops: Tops, splits: Mapping[str, str], left_out: LeftOut
) -> tuple[list[Entry], str]:
    """Entries of the split folders, and in words how they are used; "" where all are train."""
    entries = []
    for name, paths in tops.items():
        if name in splits:
            entries += _entries(paths, f"{name}/", splits[name], left_out)
        else:
            left_out.add("images in folders of no split (train, val, test)", name, len(paths))
    found = {split: name for name, split in splits.items()}
    if set(found) == {"train"}:
        return entries, ""
    source = f"the folders {', '.join(splits)}"
    if "val" in found and "test" not in found:
        entries = [e._replace(split="test") if e.split == "val" else e for e in entries]
        source += f"; '{found['val']}' is the test set, as there is no other, and there is no val"
    return entries, source


def _without_images(listing: Listing, tops: Tops, splits: Mapping[str, str]) -> Iterator[str]:
    """Folders where a class is expected and no image is."""
    classes = {split: _classes(tops[split]) for split in splits}
    for path in listing.folders:
        top, inside, name = path.partition("/")
        if (not inside and top not in tops) or (
            inside and "/" not in name and name not in classes.get(top, {name})
        ):
            yield path


def _assumptions(entries: Sequence[Entry], tops: Tops, splits: Mapping[str, str]) -> Iterator[str]:
    """Lines that tell how folders were read whose names or depth are unusual."""
    like_splits = [name for name in tops if name.lower() in SPLIT_NAMES]
    if like_splits and not splits:
        yield (
            f"taken: {quote_some(like_splits)} as classes, not as splits, as no folders of classes "
            "are inside"
        )
    deep = [entry for entry in entries if entry.path.count("/") > (2 if splits else 1)]
    if deep:
        path, name = (escape_bytes(str(part)) for part in (deep[0].path, deep[0].key))
        yield (
            f"images in folders inside of a class folder ({len(deep):,}) count for that class: "
            f"{path} is of '{name}'"
        )


def _check_classes(
    root: Path, entries: Sequence[Entry], listing: Listing, left_out: LeftOut
) -> None:
    classes = {str(entry.key) for entry in entries}
    if len(classes) > 1:
        return
    hint = "put the images of each class into a folder"
    if not classes:
        loose = len(listing.images)
        content = (
            f"only {counted(loose, 'image')} outside of any class folder" if loose else "no images"
        )
        found = "" if loose else "".join(f"; {line}" for line in left_out.lines())
        raise DatasetError(f"{root} has {content}; {hint}{found}.")
    inner = root / classes.pop()
    likely = inner
    while likely.is_dir() and len(inside := subfolders(likely)) == 1:
        likely /= inside[0]
    if likely.is_dir() and (inside := subfolders(likely)):
        hint = f"its folders ({quote_some(inside)}) may be the classes: try {likely}"
    raise DatasetError(f"{root} has images of one class only, '{inner.name}'; {hint}.")
