"""Decoded images -> features, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.devices import out_of_memory
from cafe.encoders.encoder import Encoder
from cafe.encoders.projection import encode_both
from cafe.encoders.spatial import encode_spatial
from cafe.errors import InputError
from cafe.extract.decode import DecodedImage
from cafe.progress import Progress


@dataclass(frozen=True)
class LoaderOptions:
    """How images are read and encoded.

    Attributes
    ----------
    batch_size : int or None
        Images per forward pass; None chooses by the device.
    workers : int or None
        Threads that decode, or processes where `pipeline.worth_processes`; None chooses by the
        device and the number of cores.
    progress : callable or None
        Called after every batch with a stage, the images done and the images in all.
    spatial : int or None
        Largest side of the images' spatial maps; None makes no maps.
    pre_projection : bool
        Whether to keep the features before the tower's last projection too; not with maps.
    """

    batch_size: int | None = None
    workers: int | None = None
    progress: Progress | None = None
    spatial: int | None = None
    pre_projection: bool = False

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        if self.pre_projection and self.spatial is not None:
            raise InputError(
                "a cache holds spatial maps or features before the projection; ask for one."
            )


class EncodedBatch(NamedTuple):
    """The encoder's output for the images of a batch that could be read.

    Attributes
    ----------
    features : ndarray
        Raw features of every view. (n, V, D) float32
    spatial : ndarray or None
        Maps of the plain views. (n, T, D) float16
    pre_projection : ndarray or None
        The same views before the tower's last projection. (n, V, E) float32
    """

    features: NDArray[np.floating[Any]]
    spatial: NDArray[np.float16] | None = None
    pre_projection: NDArray[np.floating[Any]] | None = None

    def finite(self) -> NDArray[np.bool_]:
        """Whether all numbers of an image are finite. (n,)"""
        finite: NDArray[np.bool_] = np.isfinite(self.features).all(axis=(1, 2))
        for array in (self.spatial, self.pre_projection):
            if array is not None:
                finite &= np.isfinite(array).all(axis=(1, 2))
        return finite


def encode_batch(
    encoder: Encoder,
    images: Sequence[DecodedImage],
    spatial: int | None,
    pre_projection: bool = False,
) -> EncodedBatch:
    """Encode the images of a batch that could be read.

    Parameters
    ----------
    encoder : Encoder
    images : sequence of DecodedImage
    spatial : int or None
        Largest side of their spatial maps; None makes no maps.
    pre_projection : bool
        Whether to keep their features before the last projection too.
    """
    read = [image.views for image in images if image.views is not None]  # (V, S, S, 3) each
    if not read:
        return EncodedBatch(np.empty((0, 1, encoder.width), np.float32))
    try:
        return _encode_views(encoder, _stacked(read, encoder.device), spatial, pre_projection)
    except torch.cuda.OutOfMemoryError as error:
        if len(read) == 1:
            raise out_of_memory("one image") from error
    torch.cuda.empty_cache()
    halves = images[: len(images) // 2], images[len(images) // 2 :]
    return _joined([encode_batch(encoder, half, spatial, pre_projection) for half in halves])


def _stacked(views: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """The views of n images in one tensor, in memory that the device reads fast. (n, V, S, S, 3)"""
    shape = len(views), *views[0].shape
    # pinned: a GPU copies it while it computes; it is used again for a later batch
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(views, out=pixels.numpy())
    return pixels


def _encode_views(
    encoder: Encoder, views: Tensor, spatial: int | None, pre_projection: bool
) -> EncodedBatch:
    """Encode images of V views each. (n, V, S, S, 3)"""
    count, each = views.shape[:2]
    pixels = views.flatten(0, 1)  # (n V, S, S, 3)
    if pre_projection:
        both = [part.numpy().reshape(count, each, -1) for part in encode_both(encoder, pixels)]
        return EncodedBatch(both[0], pre_projection=both[1])
    if spatial is None:
        features = encoder.encode_pixels(pixels)  # (n V, D)
        return EncodedBatch(features.numpy().reshape(count, each, -1))
    features, maps = encode_spatial(encoder, pixels, spatial)  # (n V, D), (n V, T, D)
    plain = maps.numpy().reshape(count, each, *maps.shape[1:])[:, 0]  # (n, T, D)
    return EncodedBatch(features.numpy().reshape(count, each, -1), plain)


def _joined(parts: Sequence[EncodedBatch]) -> EncodedBatch:
    """The batches as one; those in which no image could be read are left out."""
    full = [part for part in parts if len(part.features)]
    features = np.concatenate([part.features for part in full])
    maps = [part.spatial for part in full if part.spatial is not None]
    before = [part.pre_projection for part in full if part.pre_projection is not None]
    return EncodedBatch(
        features,
        np.concatenate(maps) if maps else None,
        np.concatenate(before) if before else None,
    )
