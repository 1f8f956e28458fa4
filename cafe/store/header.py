"""What a cache holds, as values in memory; knows no file: the header, and images in blocks."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.store.key import Key

FORMAT = 1
SPATIAL_FORMAT = 2
"""Of files with spatial maps: a reader that knows format 1 alone says so."""

FILES_FORMAT = 3
"""Of files that know the images' files, with maps or without."""

BOXES_FORMAT = 4
"""Of files whose items are boxes on images, or that have no text of the classes."""

NEWEST_FORMAT = 5
"""Of files with features before the tower's last projection, whatever else they hold."""

BOX = np.dtype(
    [
        ("xywh", "<f8", (4,)),
        ("area", "<f8"),
        ("box_id", "<i8"),
        ("image_id", "<i8"),
        ("category_id", "<i8"),
        ("is_crowd", "u1"),
        ("is_difficult", "u1"),
    ]
)
"""A box: left, top, width and height in pixels, and what its file says of it."""

FILE_STATE = np.dtype(
    [
        ("sha256", "u1", (32,)),
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("ctime_ns", "<i8"),
        ("inode", "<i8"),
    ]
)
"""What tells whether an image's file is still the one that was encoded."""

SPLITS = ("train", "val", "test")


def utc_now() -> str:
    """The time as files keep it: ISO 8601 in UTC, whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Header:
    """What a cache says beside its image features; read from a file, its text stays packed.

    Attributes
    ----------
    key : mapping
        Everything that determines the features; see `cafe.store.key`.
    dataset, model, pretrained : str
        Names of the dataset and of the encoder.
    class_names : sequence of str
        (C,)
    sentences : sequence of sequence of str
        Prompts of every class; "" pads classes with fewer. P is 0 where the encoder has no text
        tower, or nobody gave the text. (C, P)
    text_features : ndarray
        Raw text features, zeros where the sentence is "". (C, P, D) float32
    logit_scale : float
        Factor on cosines (CLIP's `exp(logit_scale)`).
    logit_bias : float or None
        Constant added to the logits (SigLIP).
    source : str
        In words: where images, labels and split come from.
    missing : sequence of str
        Files that the split names and that were not there.
    skipped : sequence of (split, id, reason)
        Images that could not be read.
    versions : mapping
        Versions of the software that made the file.
    created : str
        ISO 8601 time.
    notes : tuple of str
        What the dataset left out or assumed, a line each.
    skipped_files : ndarray or None
        States of the files of `skipped`. `FILE_STATE`
    projection, projection_bias : ndarray or None
        The image tower's last projection, `x = h W + b`, of a cache that holds h. (E, D), (D,)
        float32
    """

    key: Key
    dataset: str
    model: str
    pretrained: str
    class_names: Sequence[str]  # (C,)
    sentences: Sequence[Sequence[str]]  # (C, P)
    text_features: NDArray[np.float32]  # (C, P, D)
    logit_scale: float
    logit_bias: float | None = None
    source: str = ""
    missing: Sequence[str] = ()
    skipped: Sequence[tuple[str, str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    notes: tuple[str, ...] = ()
    skipped_files: NDArray[np.void] | None = None
    projection: NDArray[np.float32] | None = None  # (E, D)
    projection_bias: NDArray[np.float32] | None = None  # (D,)

    @property
    def has_text(self) -> bool:
        """Whether there is text of the classes."""
        return bool(self.text_features.shape[1])


@dataclass(frozen=True)
class Block:
    """Consecutive images of one split.

    Attributes
    ----------
    ids : sequence of str
        (n,)
    labels : ndarray
        (n,) int32
    features : ndarray
        Raw image features, float32 or float16. (n, D)
    views : ndarray or None
        Features of augmented views, view 0 the plain one. (n, V, D)
    spatial : ndarray or None
        Spatial maps: projected tokens, row by row, float16. (n, T, D)
    files : ndarray or None
        States of the images' files. (n,) `FILE_STATE`
    boxes : ndarray or None
        The boxes that the items are. (n,) `BOX`
    pre_projection : ndarray or None
        Features before the tower's last projection, of every view. (n, V, E)
    """

    ids: Sequence[str]  # (n,)
    labels: NDArray[np.int32]  # (n,)
    features: NDArray[Any]  # (n, D)
    views: NDArray[Any] | None = None  # (n, V, D)
    spatial: NDArray[np.float16] | None = None  # (n, T, D)
    files: NDArray[np.void] | None = None  # (n,)
    boxes: NDArray[np.void] | None = None  # (n,)
    pre_projection: NDArray[Any] | None = None  # (n, V, E)


@dataclass(frozen=True)
class SplitArrays:
    """Rows of one split in memory.

    Attributes
    ----------
    labels : ndarray
        (n,) int64
    features : ndarray
        Raw image features. (n, D)
    views : ndarray or None
        Features of augmented views, view 0 the plain one. (n, V, D)
    """

    labels: NDArray[np.int64]  # (n,)
    features: NDArray[Any]  # (n, D)
    views: NDArray[Any] | None  # (n, V, D)
