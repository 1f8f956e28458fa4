"""What one-pass adaptation has in common: images one after another, and a state that is kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import InputError


@dataclass(frozen=True)
class Sample:
    """An image of a stream, as the head sees it.

    Attributes
    ----------
    x : Tensor
        Its unit feature. (D,)
    p : Tensor
        The head's probabilities. (C,)
    label : int
        The likeliest class.
    entropy : float
        Of `p`, in nats.
    """

    x: Tensor
    p: Tensor
    label: int
    entropy: float


class EntropyCache:
    """The images of each class, by the head's answer, whose answers have the lowest entropy.

    Attributes
    ----------
    keys : Tensor
        Unit features; zeros in a free place. (C, K, D)
    entropies : Tensor
        Infinite in a free place. (C, K)
    """

    def __init__(self, classes: int, places: int, width: int) -> None:
        self.keys = torch.zeros(classes, places, width)
        self.entropies = torch.full((classes, places), math.inf)

    @property
    def filled(self) -> Tensor:
        """Whether a place holds an image. (C, K)"""
        return self.entropies.isfinite()

    def put(self, sample: Sample) -> int | None:
        """Keep an image in a free place, or instead of one of higher entropy; the place, if so."""
        of_class = self.entropies[sample.label]
        place = int(of_class.argmax())  # the first free one, where there is one
        if not sample.entropy < float(of_class[place]):
            return None
        self.keys[sample.label, place] = sample.x
        self.entropies[sample.label, place] = sample.entropy
        return place


class Stream(ABC):
    """Adaptation on a stream: each image changes what is answered for it and for all after it.

    Parameters
    ----------
    classes, width : int
        C and D.

    Attributes
    ----------
    seen : int
        Images so far.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, classes: int, width: int) -> None:
        self.classes, self.width, self.seen = classes, width, 0

    @torch.inference_mode()
    def adapt(self, x: Tensor, logits: Tensor) -> Tensor:
        """Answer images in their order; in how many calls they come makes no difference.

        Nothing is learned from features or logits that are not finite.

        Parameters
        ----------
        x : Tensor
            Raw features. (N, D)
        logits : Tensor
            The head's. (N, C)

        Returns
        -------
        Tensor
            Adapted logits. (N, C)
        """
        device, rows = logits.device, []
        logits = logits.float().cpu()
        unit, p = normalize(x.float().cpu(), dim=-1), torch.softmax(logits, dim=-1)
        finite = unit.isfinite().all(dim=-1) & p.isfinite().all(dim=-1)
        for row in range(len(unit)):
            self.seen += 1
            if not finite[row]:  # one such image would spoil all answers after it, and the state
                rows.append(logits[row])
                continue
            # one by one: the sums of a batch differ in their last bits from those of a row
            entropy = float(-(p[row] * p[row].clamp_min(1e-12).log()).sum())
            sample = Sample(unit[row], p[row], int(p[row].argmax()), entropy)
            self.take(sample)
            rows.append(logits[row] + self.shift(sample))
        return torch.stack(rows).to(device) if rows else logits.to(device)

    @abstractmethod
    def take(self, sample: Sample) -> None:
        """Learn from an image."""

    @abstractmethod
    def shift(self, sample: Sample) -> Tensor:
        """What its logits change by. (C,)"""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What it has learned; `restore` takes it. Free places are -1 in entropies."""

    def restore(self, state: Mapping[str, Tensor], seen: int) -> None:
        """Go on from a state.

        Raises
        ------
        InputError
            If it is the state of another kind of stream, or of other classes or features.
        """
        own = self.state()
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in own.items()}
        if shapes != {name: (tuple(t.shape), t.dtype) for name, t in state.items()}:
            raise InputError("it is the state of another stream, or of other classes or features.")
        self.load(state)
        self.seen = seen

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take tensors whose shapes are known to fit."""


def pack_cache(cache: EntropyCache, name: str) -> dict[str, Tensor]:
    """A cache as tensors of finite numbers."""
    entropies = torch.where(cache.filled, cache.entropies, -1.0)
    return {f"{name}.keys": cache.keys, f"{name}.entropies": entropies}


def unpack_cache(cache: EntropyCache, name: str, state: Mapping[str, Tensor]) -> None:
    """Put what `pack_cache` gave back into a cache."""
    entropies = state[f"{name}.entropies"]
    cache.keys = state[f"{name}.keys"].clone()
    cache.entropies = torch.where(entropies < 0, math.inf, entropies)
