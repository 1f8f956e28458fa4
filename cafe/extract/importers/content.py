"""What is known of imported features once each number of them was read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.class_order import first_pairs
from cafe.datasets.text_files import quote_some
from cafe.errors import counted, verb
from cafe.extract.importers.classes import ClassList, ImportOptions
from cafe.extract.importers.zero_shot_check import ZeroShotCheck, answer, judge
from cafe.store import Block
from cafe.store.equal_texts import equal_texts
from cafe.store.key import digest

_UNIT = 0.01
"""How far from 1 a length may be that half precision has rounded."""


@dataclass(frozen=True)
class SplitContent:
    """One split of imported features.

    Attributes
    ----------
    sha256 : str
        Of its ids, labels and features, as they are stored.
    lengths : ndarray
        Euclidean length of each feature. (N,)
    labels : ndarray
        Class indices. (N,)
    check : ZeroShotCheck
        How well the class texts tell its images.
    """

    sha256: str
    lengths: NDArray[np.float64]
    labels: NDArray[np.int32]
    check: ZeroShotCheck

    @property
    def is_unit(self) -> bool:
        """Whether the features are L2-normalised."""
        return bool((np.abs(self.lengths - 1) < _UNIT).all())


def read_content(split: str, blocks: Iterator[Block], weights: NDArray[np.float32]) -> SplitContent:
    """Read all of a split once, a block at a time; `weights` are those of the classes (C, D)."""
    ids, features = hashlib.sha256(), hashlib.sha256()
    lengths, labels, answers = [], [], []
    for block in blocks:
        ids.update("".join(f"{name}\0" for name in block.ids).encode("utf-8", "surrogatepass"))
        features.update(block.features.tobytes())
        squares = np.einsum("nd,nd->n", block.features, block.features, dtype=np.float64)
        lengths.append(np.sqrt(squares))
        labels.append(block.labels)
        answers.append(answer(block.features, weights))
    y = np.concatenate(labels)
    parts = {
        "ids": ids.hexdigest(),
        "labels": hashlib.sha256(y.tobytes()).hexdigest(),
        "features": features.hexdigest(),
        "type": block.features.dtype.str,
    }
    check = judge(split, y, np.concatenate(answers), len(weights))
    return SplitContent(digest(parts), np.concatenate(lengths), y, check)


def notes_on_classes(
    classes: ClassList, own_names: Sequence[str], options: ImportOptions
) -> Iterator[str]:
    """What was assumed of the classes.

    Parameters
    ----------
    classes : ClassList
    own_names : sequence of str
        Names of the classes in the source, in the order of the labels; empty for numbers.
    options : ImportOptions
    """
    keys = own_names or [str(label) for label in range(len(classes.class_names))]
    names: Sequence[str] = classes.class_names
    if options.text is not None and not options.known_names():
        names = [f"row {row}" for row in range(len(keys))]
    if list(keys) != list(names):
        order = "classes" if own_names else "labels"
        given = "class names" if names == classes.class_names else "texts"
        yield f"{given} are taken in the order of the {order}: {first_pairs(keys, names)}"
    if options.text is not None and options.text.sentences:
        return  # encoded just now, and told then
    for group in equal_texts(classes.text_features):
        same = quote_some([classes.class_names[index] for index in group])
        yield (
            f"classes {', '.join(map(str, group[:3]))} ({same}) have equal text features: methods "
            "that read the text refuse them"
        )


def notes_on_images(
    contents: Mapping[str, SplitContent], class_names: Sequence[str]
) -> Iterator[str]:
    """Classes without images, features of zeros, and whether features are normalised."""
    for split, content in contents.items():
        absent = np.setdiff1d(np.arange(len(class_names)), content.labels)
        if len(absent):
            yield (
                f"{len(absent)} of {len(class_names)} classes {verb(len(absent), 'have')} no image "
                f"in {split}: {quote_some(class_names[index] for index in absent)}"
            )
        if zeros := int((content.lengths == 0).sum()):
            features = f"{zeros:,} of {counted(len(content.lengths), 'image feature')} in {split}"
            yield f"{features} {verb(zeros, 'are')} all zeros"
    unit = [split for split, content in contents.items() if content.is_unit]
    raw = [split for split in contents if split not in unit]
    lengths = np.concatenate([contents[split].lengths for split in raw or unit])
    extent = f"from {lengths.min():.3g} to {lengths.max():.3g} long"
    if not raw:
        yield "image features are L2-normalised, not raw; every method normalises them itself"
    elif not unit:
        yield f"image features are not L2-normalised: {extent}"
    else:
        yield (
            f"image features are L2-normalised in {' and '.join(unit)} and not in "
            f"{' and '.join(raw)} ({extent}); they may be of different programs"
        )
