"""What is stored of a batch of decoded images: features, and spatial maps; writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cafe.datasets.base import Item
from cafe.encoders.encoder import Encoder
from cafe.encoders.spatial import encode_spatial
from cafe.errors import CafeError
from cafe.extract.decode import Decoded
from cafe.store import Block


class Encoded(NamedTuple):
    """What is stored of the images of a batch that could be read.

    Attributes
    ----------
    features : ndarray
        (n, V, D)
    spatial : ndarray or None
        Maps of the plain views. (n, T, D)
    """

    features: NDArray[Any]
    spatial: NDArray[np.float16] | None = None


def encode_batch(encoder: Encoder, batch: Sequence[Decoded], pool: int | None) -> Encoded:
    """Encode the images of a batch that could be read.

    Parameters
    ----------
    encoder : Encoder
    batch : sequence of Decoded
    pool : int or None
        Largest side of their spatial maps; None makes none.

    Raises
    ------
    CafeError
        If a feature is not finite in the type that is stored.
    """
    images = [(image.item.id, image.views) for image in batch if image.views is not None]
    if not images:
        return Encoded(np.empty((0, 1, encoder.width), _storage_type(encoder)))
    stacked = np.stack([views for _, views in images])  # (n, V, S, S, 3)
    names, form = [name for name, _ in images], stacked.shape[:2]
    pixels = torch.from_numpy(stacked).flatten(0, 1)
    maps = None
    if pool is None:
        encoded = encoder.encode_pixels(pixels)
    else:
        encoded, spatial = encode_spatial(encoder, pixels, pool)
        maps = _finite(spatial.numpy().reshape(*form, *spatial.shape[1:])[:, 0], names, encoder)
    with np.errstate(over="ignore"):  # it is refused
        features = encoded.numpy().astype(_storage_type(encoder))
    return Encoded(_finite(features.reshape(*form, -1), names, encoder), maps)


def _finite(array: NDArray[Any], names: Sequence[str], encoder: Encoder) -> NDArray[Any]:
    """The same array, or a refusal that names the first image at fault."""
    if not np.isfinite(array).all():
        bad = ~np.isfinite(array).all(axis=(1, 2))
        raise CafeError(
            f"the feature of image '{names[int(bad.argmax())]}' is not finite in "
            f"{encoder.precision}; use --precision fp32."
        )
    return array


def _storage_type(encoder: Encoder) -> type[np.floating[Any]]:
    """float16 holds what a half-precision encoder gives: bf16 has fewer digits, fp16 as many."""
    return np.float32 if encoder.precision == "fp32" else np.float16


def block_of(batches: Sequence[Encoded], read: Sequence[Item]) -> Block:
    """The batches of a unit as one block."""
    full = [batch for batch in batches if len(batch.features)] or batches[:1]
    views = np.concatenate([batch.features for batch in full])  # (n, V, D)
    maps = [batch.spatial for batch in full if batch.spatial is not None]
    return Block(
        ids=[item.id for item in read],
        labels=np.array([item.label for item in read], np.int32),
        features=views[:, 0],
        views=views if views.shape[1] > 1 else None,
        spatial=np.concatenate(maps) if maps else None,
    )
