"""A split as a list: which image belongs to which class; knows no disk and no file format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cafe.datasets.class_order import first_pairs, has_two_orders, in_class_order
from cafe.datasets.dataset import SPLITS
from cafe.datasets.text_files import clean_name, name_fault, quote, quote_some
from cafe.errors import DatasetError, InputError, counted, verb

ClassNames: TypeAlias = Sequence[str] | Mapping[str, str] | None
"""Class names to use instead: all of them in the order of the labels, or a map from old to new."""

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How people call their splits, in lower case, and what cafe calls them."""


class Entry(NamedTuple):
    """One image as a file or folder lists it.

    Attributes
    ----------
    split : str
        "train", "val" or "test"; "" where it is not said.
    path : str
        Relative to a root that is not known here, with forward slashes.
    key : int or str
        The class: a label where classes are numbered, else a name.
    name : str or None
        The name of the class for prompts; None takes a textual key.
    """

    split: str
    path: str
    key: int | str
    name: str | None = None


@dataclass(frozen=True)
class ImageList:
    """Checked entries: labels run from 0, each has a name, no image is named twice.

    Attributes
    ----------
    class_names : tuple of str
        Names by label. (C,)
    rows : dict of str to list of (str, int)
        By split, in the order of the entries: path and label.
    notes : list of str
        What is good to know of them, a line each.
    unsplit : list of str
        Where cafe makes the split: the paths of all, in the order of the entries. Else empty.
    """

    class_names: tuple[str, ...]
    rows: dict[str, list[tuple[str, int]]]
    notes: list[str] = field(default_factory=list)
    unsplit: list[str] = field(default_factory=list)


def make_image_list(
    entries: Sequence[Entry], where: str, class_names: ClassNames = None
) -> ImageList:
    """Number the classes, name them and check the whole.

    Parameters
    ----------
    entries : sequence of Entry
        All with a split; keys all int or all str.
    where : str
        Where the entries come from, for messages.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None keeps those of the entries.

    Raises
    ------
    DatasetError
        If labels have gaps, no names or several; two classes that are known by their names alone
        have one; an image is named twice; a class has no training images though there is a
        training split.
    InputError
        If `class_names` does not fit.
    """
    keys = {entry.key for entry in entries}
    ranks = {key: rank for rank, key in enumerate(in_class_order(map(str, keys)))}
    are_names = all(isinstance(key, str) for key in keys)
    if are_names and _is_in_order(class_names) and has_two_orders(ranks):
        raise InputError(
            f"{where}: its classes {quote_some(ranks)} can be sorted as text and counted, so class "
            "names in their order can be read in two ways; give a mapping from old to new names."
        )
    label_of = {key: key if isinstance(key, int) else ranks[key] for key in keys}
    names = choose_names(_names_by_label(entries, label_of, where), class_names, where)
    own = class_names is None and all(entry.name is None for entry in entries)
    if own and len(set(names)) < len(names):
        shared = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(
            f"{where}: two classes are called {quote_some(shared)}; rename one of them."
        )
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for entry in entries:
        rows[entry.split].append((entry.path, label_of[entry.key]))
    rows = {split: pairs for split, pairs in rows.items() if pairs}
    _check_unique(rows, where)
    check_trained(rows, names, where)
    key_of = {label: key for key, label in label_of.items()}
    in_order = [str(key_of.get(label, label)) for label in range(len(names))]
    return ImageList(names, rows, pairs_in_words(in_order, names, class_names))


def _is_in_order(class_names: ClassNames) -> bool:
    return class_names is not None and not isinstance(class_names, Mapping)


def pairs_in_words(keys: Sequence[str], names: Sequence[str], class_names: ClassNames) -> list[str]:
    """The line that shows which class gets which name, where names are given in order."""
    if not _is_in_order(class_names):
        return []
    return [f"class names in the order given: {first_pairs(keys, names)}"]


def _names_by_label(
    entries: Sequence[Entry], label_of: Mapping[int | str, int], where: str
) -> dict[int, str | None]:
    names: dict[int, str | None] = {}
    for entry in entries:
        label = label_of[entry.key]
        name = entry.key if entry.name is None and isinstance(entry.key, str) else entry.name
        name = clean_name(name) if name is not None else None
        if names.setdefault(label, name) != name:
            raise DatasetError(
                f"{where}: class {quote(entry.key)} is called {quote(names[label])} and "
                f"{quote(name)}; give each class one name."
            )
        if name is not None and (fault := name_fault(name)):
            raise DatasetError(f"{where}: class {quote(entry.key)} has no usable name: {fault}.")
    return names


def choose_names(
    own_names: Mapping[int, str | None], class_names: ClassNames, where: str
) -> tuple[str, ...]:
    """Class names by label: the dataset's own, or others instead.

    Parameters
    ----------
    own_names : mapping of int to str or None
        Label -> name, where it has one.
    class_names : sequence of str, mapping of str to str, or None
        As in `make_image_list`.
    where : str
        What is being named, for messages.
    """
    count = max(own_names, default=-1) + 1
    if min(own_names, default=0) < 0:
        raise DatasetError(f"{where}: label {min(own_names)} is out of range; labels start at 0.")
    if class_names is not None and not isinstance(class_names, Mapping):
        return _all_names(class_names, count, where)
    unnamed = [label for label, name in sorted(own_names.items()) if name is None]
    if unnamed:
        raise DatasetError(
            f"{where}: {counted(len(unnamed), 'label', 'have')} no class name (the first: "
            f"{quote_some(unnamed)}); name the classes in the file or give class names."
        )
    if count > len(own_names):
        unused = count - len(own_names)
        gap = next(label for label in range(count) if label not in own_names)
        raise DatasetError(
            f"{where}: labels run to {count - 1} but {unused} of them {verb(unused, 'are')} never "
            f"used (the first: {gap}); number the {len(own_names)} classes from 0 without gaps."
        )
    names = tuple(str(own_names[label]) for label in range(count))
    return names if class_names is None else _rename(names, class_names, where)


def _all_names(class_names: Sequence[str], count: int, where: str) -> tuple[str, ...]:
    names = tuple(clean_name(name) for name in class_names)
    if len(names) != count:
        raise InputError(
            f"{where} has labels from 0 to {count - 1} but "
            f"{counted(len(names), 'class name', 'are')} given; give one name per label, in "
            "the order of the labels."
        )
    _check_usable(names)
    return names


def _rename(names: tuple[str, ...], new_names: Mapping[str, str], where: str) -> tuple[str, ...]:
    new_of = {clean_name(old): clean_name(new) for old, new in new_names.items()}
    unknown = sorted(set(new_of) - set(names))
    if unknown:
        raise InputError(
            f"{where} has no class called {quote_some(unknown)}; its classes are "
            f"{quote_some(names, 5)}."
        )
    _check_usable(new_of.values())
    return tuple(new_of.get(name, name) for name in names)


def _check_usable(names: Iterable[str]) -> None:
    for name in names:
        if fault := name_fault(name):
            raise InputError(f"{fault}.")


def _check_unique(rows: Mapping[str, Sequence[tuple[str, int]]], where: str) -> None:
    split_of: dict[str, str] = {}
    repeated = []
    for split, pairs in rows.items():
        for path, _ in pairs:
            if path in split_of:
                repeated.append(f"{path} ({split_of[path]}, {split})")
            split_of[path] = split
    if repeated:
        raise DatasetError(
            f"{where}: {counted(len(repeated), 'image', 'are')} named twice: "
            f"{quote_some(repeated)}; an image may be in one split only, once."
        )


def check_trained(
    rows: Mapping[str, Sequence[tuple[str, int]]],
    names: Sequence[str],
    where: str,
    noun: str = "image",
) -> None:
    """Refuse a class that has images and no training images, if there is a training split."""
    labels = {split: {label for _, label in pairs} for split, pairs in rows.items()}
    untrained = sorted(set().union(*labels.values()) - labels.get("train", set()))
    if untrained and "train" in labels:
        raise DatasetError(
            f"{where}: {counted(len(untrained), 'class', 'have')} no training {noun}: "
            f"{quote_some(names[label] for label in untrained)}; are they spelled alike?"
        )
