"""A split in words: which image belongs to which class; knows no disk and no format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cafe.datasets.base import SPLITS
from cafe.datasets.text import clean_name, is_utf8, show, some
from cafe.errors import DatasetError, InputError

Names: TypeAlias = Sequence[str] | Mapping[str, str] | None
"""Class names to use instead: all of them in the order of the labels, or a map from old to new."""

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How people call their splits, in lower case, and what cafe calls them."""


class Entry(NamedTuple):
    """One image as a list names it.

    Attributes
    ----------
    split : str
        "train", "val" or "test"; "" where the list does not say.
    path : str
        Relative to a root that the list does not know, with forward slashes.
    key : int or str
        The class: a label where the list numbers its classes, else a name.
    name : str or None
        The name of the class for prompts; None takes a textual key.
    """

    split: str
    path: str
    key: int | str
    name: str | None = None


@dataclass(frozen=True)
class Listing:
    """Checked entries: labels run from 0, each has a name, no image is named twice.

    Attributes
    ----------
    class_names : tuple of str
        Names by label. (C,)
    rows : dict of str to list of (str, int)
        By split, in the order of the list: path and label.
    """

    class_names: tuple[str, ...]
    rows: dict[str, list[tuple[str, int]]]


def make_listing(
    entries: Sequence[Entry], what: str, class_names: Names = None, *, distinct: bool = True
) -> Listing:
    """Number the classes, name them and check the whole.

    Parameters
    ----------
    entries : sequence of Entry
        All with a split; keys all int or all str.
    what : str
        Where the entries come from, for messages.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None keeps those of the entries.
    distinct : bool
        Refuse two classes of one name.

    Raises
    ------
    DatasetError
        If labels have gaps, no names or several; an image is named twice; a class has no
        training images though there is a training split.
    InputError
        If `class_names` does not fit.
    """
    keys = sorted({entry.key for entry in entries})
    numbered = bool(keys) and isinstance(keys[0], int)
    label_of: dict[int | str, int] = {
        key: int(key) if numbered else index for index, key in enumerate(keys)
    }
    found = _names_found(entries, label_of, what)
    names = choose_names(found, class_names, what)
    if distinct and len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(f"{what}: two classes are called {some(twice)}; rename one of them.")
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for entry in entries:
        rows[entry.split].append((entry.path, label_of[entry.key]))
    rows = {split: listed for split, listed in rows.items() if listed}
    _check_rows(rows, names, what)
    return Listing(names, rows)


def _names_found(
    entries: Sequence[Entry], label_of: Mapping[int | str, int], what: str
) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    for entry in entries:
        label = label_of[entry.key]
        name = entry.key if entry.name is None and isinstance(entry.key, str) else entry.name
        name = clean_name(name) if name is not None else None
        if found.setdefault(label, name) != name:
            raise DatasetError(
                f"{what}: class {show(entry.key)} is called {show(found[label])} and "
                f"{show(name)}; give each class one name."
            )
        if name is not None and not (name and is_utf8(name)):
            raise DatasetError(f"{what}: class {show(entry.key)} has no usable name.")
    return found


def choose_names(found: Mapping[int, str | None], given: Names, what: str) -> tuple[str, ...]:
    """Class names by label: those found, or those given instead.

    Parameters
    ----------
    found : mapping of int to str or None
        Label -> name, where it has one.
    given : sequence of str, mapping of str to str, or None
        As in `make_listing`.
    what : str
        What is being named, for messages.
    """
    count = max(found, default=-1) + 1
    if min(found, default=0) < 0:
        raise DatasetError(f"{what}: label {min(found)} is out of range; labels start at 0.")
    if given is not None and not isinstance(given, Mapping):
        return _given_names(given, count, what)
    unnamed = [label for label, name in sorted(found.items()) if name is None]
    if unnamed:
        raise DatasetError(
            f"{what}: {len(unnamed)} labels have no class name (the first: {some(unnamed)}); "
            "name the classes in the file or give class names."
        )
    if count > len(found):
        gap = next(label for label in range(count) if label not in found)
        raise DatasetError(
            f"{what}: labels run to {count - 1} but {count - len(found)} of them are never used "
            f"(the first: {gap}); number the {len(found)} classes from 0 without gaps."
        )
    names = tuple(str(found[label]) for label in range(count))
    return names if given is None else _renamed(names, given, what)


def _given_names(given: Sequence[str], count: int, what: str) -> tuple[str, ...]:
    names = tuple(clean_name(name) for name in given)
    if len(names) != count:
        raise InputError(
            f"{what} has labels from 0 to {count - 1} but {len(names)} class names are given; "
            "give one name per label, in the order of the labels."
        )
    _check_given(names)
    return names


def _renamed(names: tuple[str, ...], given: Mapping[str, str], what: str) -> tuple[str, ...]:
    table = {clean_name(old): clean_name(new) for old, new in given.items()}
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise InputError(
            f"{what} has no class called {some(unknown)}; its classes are {some(names, 5)}."
        )
    _check_given(table.values())
    return tuple(table.get(name, name) for name in names)


def _check_given(names: Iterable[str]) -> None:
    for name in names:
        if not name or not is_utf8(name):
            raise InputError(f"{show(name)} cannot be a class name; give a word or more.")


def _check_rows(
    rows: Mapping[str, Sequence[tuple[str, int]]], names: Sequence[str], what: str
) -> None:
    home: dict[str, str] = {}
    twice = []
    for split, listed in rows.items():
        for path, _ in listed:
            if path in home:
                twice.append(f"{path} ({home[path]}, {split})")
            home[path] = split
    if twice:
        raise DatasetError(
            f"{what}: {len(twice)} images are named twice: {some(twice)}; an image may be in one "
            "split only, once."
        )
    trained = {label for _, label in rows.get("train", ())}
    if trained and len(trained) < len(names):
        untrained = {label for listed in rows.values() for _, label in listed} - trained
        if untrained:
            raise DatasetError(
                f"{what}: {len(untrained)} classes have no training image: "
                f"{some(names[label] for label in sorted(untrained))}; are they spelled alike?"
            )
