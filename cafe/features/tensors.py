"""Cached features as tensors in memory: what methods are fitted on; knows no encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import InputError
from cafe.features.stored_rows import PreProjection, StoredRows
from cafe.store.equal_texts import equal_texts

LARGE = 1 << 28
"""Numbers from which on features are neither widened nor copied as a whole: 1 GiB in float32."""

_PROMPT_NUMBERS = 1 << 24  # of prompts' features that are normalised at a time


@dataclass(frozen=True)
class Features:
    """Image features of one split, or of a part of it.

    Attributes
    ----------
    x : Tensor
        Raw (not normalised) image features: float32, or float16 where they were stored so and
        there are more than `LARGE` numbers, whatever is computed from them being float32. (N, D)
    y : Tensor
        Class indices, int64. (N,)
    views : Tensor or None
        Raw features of augmented views, view 0 being the plain one. (N, V, D)
    spatial_maps : StoredRows or None
        Spatial maps. (N, T, D)
    groups : ndarray or None
        The image that each box lies on, so that no fold splits it; None where items are images.
        (N,) int64
    pre_projection : PreProjection or None
        The same images before the last projection.
    """

    x: Tensor  # (N, D)
    y: Tensor  # (N,)
    views: Tensor | None = None  # (N, V, D)
    spatial_maps: StoredRows | None = None  # (N, T, D)
    groups: NDArray[np.int64] | None = None  # (N,)
    pre_projection: PreProjection | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise InputError(
                f"features must be (N, D) with labels (N,); got {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Features:
        views = None if self.views is None else self.views[rows]
        maps = None if self.spatial_maps is None else self.spatial_maps[rows]
        groups = None if self.groups is None else self.groups[rows.cpu().numpy()]
        before = None if self.pre_projection is None else self.pre_projection[rows]
        return Features(self.x[rows], self.y[rows], views, maps, groups, before)

    @cached_property
    def unit(self) -> Tensor:
        """L2-normalised features. (N, D)"""
        return normalize(self.x.float(), dim=-1)

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        views = None if self.views is None else self.views.to(device)
        maps = None if self.spatial_maps is None else self.spatial_maps.to(device)
        before = None if self.pre_projection is None else self.pre_projection.to(device)
        return Features(self.x.to(device), self.y.to(device), views, maps, self.groups, before)

    def inputs(self, *, spatial: bool = False, pre_projection: bool = False) -> Tensor:
        """What a head takes of these images.

        Parameters
        ----------
        spatial : bool
            Whether it needs the spatial map.
        pre_projection : bool
            Whether it projects by itself.

        Returns
        -------
        Tensor
            The features (N, D); for a spatial head the feature and then the map (N, 1 + T, D); for
            one that projects by itself the features before the projection (N, E).

        Raises
        ------
        InputError
            If there are none of these.
        """
        if pre_projection:
            return self.before_projection.rows.tensor()[:, 0]
        if not spatial:
            return self.x
        if self.spatial_maps is None:
            raise InputError(
                "these images have no spatial features; 'cafe extract --spatial' adds them."
            )
        maps = self.spatial_maps.tensor()  # (N, T, D), read from the disk now
        return torch.cat([self.x[:, None].float(), maps], dim=1)  # (N, 1 + T, D)

    @property
    def before_projection(self) -> PreProjection:
        """`pre_projection`; `InputError` where there are none."""
        if self.pre_projection is None:
            raise InputError(
                "these images have no features before the projection; 'cafe extract "
                "--pre-projection' adds them."
            )
        return self.pre_projection

    def blocks(self, rows: int, **what: bool) -> Iterator[Tensor]:
        """What `inputs` gives in float32, some rows at a time: maps are read block by block."""
        for start in range(0, max(1, len(self)), rows):
            yield self.block(slice(start, start + rows), **what)

    def block(self, rows: slice, **what: bool) -> Tensor:
        """The same of consecutive rows alone."""
        if not any(what.values()):
            return self.x[rows].float()
        chosen = torch.arange(len(self), device=self.x.device)[rows]
        return self[chosen].inputs(**what)


def join(parts: Sequence[Features]) -> Features:
    """Plain features of several splits as one, in order; views and maps are left out.

    No image has boxes in two splits, so the groups of each part stay apart.
    """
    groups: NDArray[np.int64] | None = None
    for part in parts:
        if part.groups is not None:
            own = part.groups if groups is None else part.groups + (groups.max(initial=-1) + 1)
            groups = own if groups is None else np.concatenate([groups, own])
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    return Features(x, y, groups=groups)


@dataclass(frozen=True)
class ClassText:
    """What the text tower says of each class.

    Attributes
    ----------
    features : Tensor
        Raw text features of every prompt, float32; rows of zeros where a class has fewer
        prompts than others. (C, P, D)
    names : tuple of str
        Class names. (C,)
    logit_scale : float
        Factor on cosines before the softmax (CLIP's `exp(logit_scale)`, 100 for OpenAI's).
    logit_bias : float
        Constant added to the logits (SigLIP); 0 where the encoder has none.
    """

    features: Tensor
    names: tuple[str, ...]
    logit_scale: float
    logit_bias: float = 0.0

    @cached_property
    def weights(self) -> Tensor:
        """Zero-shot class weights `norm(mean_p norm(t))`. (C, D)

        The prompt ensemble of Radford et al. 2021, section 3.1.4. Zeros where there is no text.
        """
        classes, prompts, width = self.features.shape
        if not prompts:
            return self.features.new_zeros(classes, width)
        some = torch.split(self.features, max(1, _PROMPT_NUMBERS // (prompts * width)))
        # rows of zeros stay zeros
        means = torch.cat([normalize(part, dim=-1).mean(dim=1) for part in some])  # (C, D)
        return normalize(means, dim=-1)

    @property
    def each(self) -> tuple[ClassText, ...]:
        """The text of each encoder: one, but where features of several are joined."""
        return (self,)

    @property
    def has_text(self) -> bool:
        """Whether there is text: an encoder of images alone has none, and P is 0."""
        return self.features.shape[1] > 0

    @property
    def tells_apart(self) -> bool:
        """Whether zero-shot CLIP can tell the classes apart."""
        return self.has_text and not self.equal

    @cached_property
    def equal(self) -> list[tuple[int, ...]]:
        """Groups of classes whose texts are equal; see `cafe.store.equal_texts`."""
        return equal_texts(self.features.cpu().numpy())

    def for_shots(self, shots: Features) -> ClassText:  # noqa: ARG002 (an override uses it)
        """The text beside some of the shots: the same, unless shots weigh its prompts."""
        return self

    def to(self, device: torch.device | str) -> ClassText:
        """The same text on another device."""
        return ClassText(self.features.to(device), self.names, self.logit_scale, self.logit_bias)


@dataclass(frozen=True)
class TrainingSet:
    """What every method is fitted on: labelled image features and the classes' text."""

    features: Features
    text: ClassText

    @property
    def averages(self) -> Tensor:
        """See `class_averages`. (C, N)"""
        return class_averages(self.features.y, len(self.text.names))

    def part(self, rows: Tensor) -> TrainingSet:
        """Some of the images, and the text as these have it."""
        kept = self.features[rows]
        return replace(self, features=kept, text=self.text.for_shots(kept))

    def to(self, device: torch.device | str) -> TrainingSet:
        """The same on another device."""
        return replace(self, features=self.features.to(device), text=self.text.to(device))


def class_averages(y: Tensor, classes: int) -> Tensor:
    """The matrix that takes images to the means of their classes.

    Parameters
    ----------
    y : Tensor
        Class indices. (N,)
    classes : int
        C.

    Returns
    -------
    Tensor
        Rows that sum to 1. A class without an image takes the mean of the other classes' means, so
        that the images neither speak for it nor against it. (C, N)
    """
    belongs = (y == torch.arange(classes, device=y.device)[:, None]).float()  # (C, N)
    counts = belongs.sum(dim=1, keepdim=True)  # (C, 1)
    means = belongs / counts.clamp_min(1)
    return torch.where(counts > 0, means, means.sum(dim=0) / (counts > 0).sum())
