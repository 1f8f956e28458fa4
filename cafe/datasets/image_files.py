"""Looking images up on the disk: which of those that a split names are there, and their sizes."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cafe.datasets.dataset import Dataset, Item
from cafe.datasets.image_list import ImageList
from cafe.datasets.text_files import quote_some
from cafe.errors import MissingFilesError, counted, verb

_SAMPLE = 64  # images to look for in each root: a split may name a million


def file_size(path: Path) -> int | None:
    """Bytes of a file, links followed; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def best_root(roots: Sequence[Path], images: ImageList) -> Path:
    """Choose the folder below which most of a sample of the named images lie.

    Parameters
    ----------
    roots : sequence of Path
        At least one; the first wins a tie.
    images : ImageList
        Names the images.
    """
    paths = [path for rows in images.rows.values() for path, _ in rows]
    sample = paths[:: max(len(paths) // _SAMPLE, 1)]
    return max(roots, key=lambda root: sum(file_size(root / path) is not None for path in sample))


def look_up_images(
    images: ImageList,
    *,
    name: str,
    root: Path,
    templates: tuple[str, ...],
    source: str,
    allow_missing: bool,
) -> Dataset:
    """Make a dataset of the images that are on the disk.

    Parameters
    ----------
    images : ImageList
        Which images, classes and splits.
    name, templates, source
        As in `Dataset`.
    root : Path
        Folder that the paths are relative to.
    allow_missing : bool
        Go on without the images that are not there, and without the classes of which none is. They
        are recorded in `missing`, and in words in `source`.

    Raises
    ------
    MissingFilesError
        If images are missing, and that is not allowed; or if none is there.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    missing: list[str] = []
    for split, rows in images.rows.items():
        items = []
        for path, label in rows:
            size = file_size(root / path)
            if size is None:
                missing.append(path)
            else:
                items.append(Item(path, label, size))
        splits[split] = tuple(items)
    if missing and not (allow_missing and any(splits.values())):
        total = sum(map(len, images.rows.values()))
        raise MissingFilesError(missing_message(name, root, missing, total))
    there = {item.id: item for items in splits.values() for item in items}
    dataset = Dataset(
        name,
        images.class_names,
        splits,
        templates,
        root,
        source,
        tuple(missing),
        tuple(images.notes),
        tuple(there[path] for path in images.unsplit if path in there),
    )
    return _without_empty_classes(dataset) if missing else dataset


def missing_message(
    name: str, root: Path, missing: Sequence[str], total: int, what: str = "split"
) -> str:
    """What is said where images are not there that a split, or `what`, names."""
    advice = "complete the folder or pass another root"
    if len(missing) < total:
        advice += ", or allow missing images (allow_missing=True)"
    return (
        f"{name}: {len(missing):,} of the {counted(total, 'image')} that its {what} names "
        f"{verb(len(missing), 'are')} not in {root} "
        f"({quote_some(missing)}); {advice}."
    )


def _without_empty_classes(dataset: Dataset) -> Dataset:
    used = sorted({item.label for items in dataset.splits.values() for item in items})
    label_of = {old: new for new, old in enumerate(used)}
    splits = {
        split: tuple(item._replace(label=label_of[item.label]) for item in items)
        for split, items in dataset.splits.items()
        if items
    }
    left_out = f"{counted(len(dataset.missing), 'missing image')} left out"
    if len(used) < len(dataset.class_names):
        left_out += (
            f", {len(used)} of {len(dataset.class_names)} classes {verb(len(used), 'remain')}"
        )
    return replace(
        dataset,
        class_names=tuple(dataset.class_names[label] for label in used),
        words=tuple(dataset.words[label] for label in used if dataset.words),
        splits=splits,
        unsplit=tuple(i._replace(label=label_of[i.label]) for i in dataset.unsplit),
        source=f"{dataset.source}; {left_out}",
        notes=(*dataset.notes, f"{left_out}: {quote_some(dataset.missing)}"),
    )
