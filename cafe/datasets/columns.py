"""Which columns of a table hold images, labels and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cafe.datasets.text_files import quote_some
from cafe.errors import DatasetError

_LABELS = ("label", "labels", "class", "class_name", "category", "target", "cls", "fine_label")
_IMAGES = ("image", "img", "picture", "photo", "bytes", "image_bytes", "jpg", "png")


class Columns(NamedTuple):
    """Names of the columns that are used."""

    image: str
    label: str
    split: str | None


def choose_columns(
    kinds: Mapping[str, str], images: Sequence[str], labels: Sequence[str], where: str
) -> Columns:
    """Choose the columns of a table.

    Parameters
    ----------
    kinds : mapping of str to str
        Every column, and its type in words.
    images, labels : sequence of str
        Those whose type says that they hold images, or that they may hold labels.
    where : str
        What has these columns, for messages.

    Raises
    ------
    DatasetError
        If there is no column of images or none of labels, or several could be meant. All columns
        are named.
    """
    image, label = _choose(images, _IMAGES), _choose(labels, _LABELS)
    if image is None or label is None:
        parts = {"images": image, "labels": label}
        lacking = [f"one column of {what}" for what, name in parts.items() if name is None]
        named = quote_some([f"{name} ({kind})" for name, kind in kinds.items()], 12)
        raise DatasetError(
            f"{where}: {' and '.join(lacking)} is needed, as 'image' and 'label'; it has {named}. "
            "Rename its columns, or choose another."
        )
    return Columns(image, label, "split" if "split" in kinds else None)


def _choose(candidates: Sequence[str], usual: Sequence[str]) -> str | None:
    """The candidate of a usual name, else the only one."""
    by_name = {name.lower(): name for name in candidates}
    named = [by_name[name] for name in usual if name in by_name]
    if named:
        return named[0]
    return candidates[0] if len(candidates) == 1 else None


def key_of(label: Any, where: str) -> int | str | None:
    """The class that a cell names: a number or a text; None where it names none."""
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DatasetError(f"{where}: label {label!r} is neither a name nor a number.")
    return label.strip() if isinstance(label, str) else None if label < 0 else label
