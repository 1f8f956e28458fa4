"""What a check has found, as values: for a table, JSON, a page and `suggestions.csv`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cafe.curation.class_texts import ClassReport
from cafe.curation.suggestions import Suggestion, write_suggestions
from cafe.datasets.thumbnails import Box
from cafe.errors import InputError, escape_bytes, raise_as
from cafe.store.files import write_text


class Labelled(NamedTuple):
    """An image with its split and the name of its class."""

    id: str
    split: str
    label: str


class Finding(NamedTuple):
    """What may be wrong with one image; `proposed` is "" where no other class is proposed."""

    image: Labelled
    problem: str
    proposed: str
    confidence: float

    @property
    def suggestion(self) -> Suggestion:
        """A row of `suggestions.csv`."""
        sure = min(1.0, max(0.0, round(float(self.confidence), 4)))
        return Suggestion(self.image.id, self.problem, self.image.label, self.proposed, sure)


class Copies(NamedTuple):
    """Images that are copies of one."""

    images: list[Labelled]
    confidence: float

    @property
    def splits(self) -> list[str]:
        """The splits that they are in."""
        return list(dict.fromkeys(image.split for image in self.images))

    @property
    def leaked(self) -> list[Labelled]:
        """Test images of which a copy is in another split."""
        others = any(image.split != "test" for image in self.images)
        return [image for image in self.images if image.split == "test"] if others else []

    @property
    def suggestions(self) -> list[Suggestion]:
        """A row for each image but the first."""
        first, *rest = self.images
        kinds = {True: "leak", False: "duplicate"}
        return [
            Suggestion(
                image.id,
                f"{kinds[len(self.splits) > 1]} of {escape_bytes(first.id)} ({first.split}, "
                f"{first.label})",
                image.label,
                confidence=min(1.0, self.confidence),
            )
            for image in rest
        ]


@dataclass(frozen=True)
class Check:
    """What may be wrong with a labelled dataset.

    Attributes
    ----------
    name, encoder : str
    root : Path or None
        Folder that the ids are relative to, where it is at hand.
    origin : mapping of str to str
        How the dataset was named, for `cafe.relabel`.
    labelled : list of Labelled
        All images. (N,)
    classes : list of ClassReport
        (C,)
    method : str
        Who judged the labels.
    label_errors, outliers, useless : list of Finding
        The surest first. `useless` holds blank and tiny images.
    copies : list of Copies
    near_texts : list of (str, str, float)
        Classes whose texts are nearly equal, and their cosine.
    zero_shot : float or None
        Accuracy of zero-shot CLIP on all images in percent.
    notes : list of str
        What could not be told, and why.
    boxes : mapping of str to sequence of float
        Left, top, width and height of each item by its id, where items are boxes.
    seconds : float
    """

    name: str
    encoder: str
    root: Path | None
    origin: Mapping[str, str]
    labelled: Sequence[Labelled]
    classes: Sequence[ClassReport]
    method: str
    label_errors: Sequence[Finding]
    copies: Sequence[Copies]
    outliers: Sequence[Finding]
    useless: Sequence[Finding]
    near_texts: Sequence[tuple[str, str, float]]
    zero_shot: float | None
    notes: Sequence[str] = ()
    boxes: Mapping[str, Box] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)

    @property
    def images(self) -> int:
        """Images looked at."""
        return len(self.labelled)

    @property
    def noun(self) -> str:
        """What is labelled: "image", or "box"."""
        return "box" if self.boxes else "image"

    @property
    def leaked(self) -> list[Labelled]:
        """Test images of which a copy is in another split."""
        return [image for copies in self.copies for image in copies.leaked]

    @property
    def poor_classes(self) -> list[ClassReport]:
        """Classes that zero-shot CLIP finds no better than chance, or whose text is far off."""
        return [row for row in self.classes if row["at_chance"] or row["far_from_images"]]

    @property
    def suggestions(self) -> list[Suggestion]:
        """The rows of `suggestions.csv`: label errors, then all else."""
        rows = [finding.suggestion for finding in self.label_errors]
        rows += [row for copies in self.copies for row in copies.suggestions]
        return rows + [finding.suggestion for finding in (*self.outliers, *self.useless)]

    @property
    def json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "dataset": self.name,
            "encoder": self.encoder,
            "images": self.images,
            "judged_by": self.method,
            "label_errors": [self._row(f) for f in self.label_errors],
            "duplicates": [
                {
                    "images": [
                        image._asdict() | {"id": escape_bytes(image.id)} for image in c.images
                    ],
                    "confidence": c.confidence,
                    "across_splits": len(c.splits) > 1,
                }
                for c in self.copies
            ],
            "test_images_leaked": len(self.leaked),
            "outliers": [self._row(f) for f in self.outliers],
            "blank_or_tiny": [self._row(f) for f in self.useless],
            "near_texts": [{"classes": [a, b], "cosine": c} for a, b, c in self.near_texts],
            "zero_shot": self.zero_shot,
            "classes": list(self.classes),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def _row(self, finding: Finding) -> dict[str, Any]:
        row, box = finding.suggestion, self.boxes.get(finding.image.id)
        return {
            "id": escape_bytes(row.id),
            **({} if box is None else {"box": list(box)}),
            "split": finding.image.split,
            "problem": row.problem,
            "current": row.current,
            "proposed": row.proposed or None,
            "confidence": row.confidence,
        }

    def write_suggestions(self, path: Path | str = "suggestions.csv") -> Path:
        """Write `suggestions.csv`, and beside it which dataset it is about.

        A file that is there may hold a person's choice: it stays, and `-2`, `-3`, ... is appended.
        """
        path = free_name(Path(path))
        if self.origin:
            with raise_as(InputError, f"cannot write beside '{path}'", "choose another file"):
                write_text(origin_file(path), json.dumps(_utf8(self.origin), indent=1) + "\n")
        write_suggestions(path, self.suggestions)
        return path


def _utf8(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: escape_bytes(text) for name, text in texts.items()}


def origin_file(path: Path) -> Path:
    """The file that says which dataset suggestions are about."""
    return path.with_name(f"{path.stem}.dataset.json")


def free_name(path: Path) -> Path:
    """A name that is not taken: the path, or with `-2`, `-3`, ... appended."""
    free, number = path, 1
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
