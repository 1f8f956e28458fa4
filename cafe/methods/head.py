"""What a fit gives: a head turns features to logits, and is saved by its tensors and params."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.features.tensors import ClassText, Features

Numbers = TypeVar("Numbers", Tensor, NDArray[Any])


@dataclass(frozen=True, eq=False, kw_only=True)
class Head(ABC):
    """A fitted classifier over features.

    A subclass is a dataclass: one field for each of its tensors, and its formula, `logits`. Saving
    it and reading it back follow from the fields.

    Attributes
    ----------
    params : mapping
        The hyper-parameters in force, chosen ones included; JSON values only.
    method : str
        Name of the method that fitted it.
    spatial : bool
        Whether it needs the spatial map of an image beside its feature.
    pre_projection : bool
        Whether it takes the features before the image tower's last projection, and projects them.
    cosine_logits : bool
        Whether logits are the encoder's own, `scale * cosine + bias`, of adapted features. Only
        then is their sigmoid what it is for SigLIP (Zhai et al. 2023, arXiv 2303.15343): how
        probable it is that image and class belong together, whatever the other classes are.
    own_scores : bool
        Whether it was fitted so that the sigmoid of a logit is how probable its class is, whatever
        the other classes are.
    no_graph : str
        Why it cannot be exported as a graph, as a clause; "" where it can.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""

    spatial: ClassVar[bool] = False
    pre_projection: ClassVar[bool] = False
    cosine_logits: ClassVar[bool] = False
    own_scores: ClassVar[bool] = False
    no_graph: ClassVar[str] = ""

    def __call__(self, x: Numbers) -> Numbers:
        """`logits` a block at a time, without gradients: an array for an array. (N, C)"""
        return in_kind(partial(predict_in_blocks, self), x, self)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Class scores.

        Parameters
        ----------
        x : Tensor
            Raw image features (N, D); for a spatial head the feature and then the map of each
            image (N, 1 + T, D), for one that projects the features before (N, E).

        Returns
        -------
        Tensor
            Logits; softmax over the last axis gives probabilities. (N, C)
        """

    @property
    def takes(self) -> dict[str, bool]:
        """What it takes of images, as the arguments of `Features.inputs`."""
        return {"spatial": self.spatial, "pre_projection": self.pre_projection}

    def features_of(self, x: Tensor) -> Tensor:
        """The encoder's raw features (N, D) of what the head takes of images."""
        return x[:, 0] if self.spatial else x

    def graph_logits(self, x: Tensor) -> Tensor:
        """The same as `logits` by plain tensor operations, which an exported graph needs. (N, C)"""
        return self.logits(x)

    def adapted(self, x: Tensor) -> Tensor | None:
        """Unit features that the head makes of raw ones (N, D); None where it leaves them alone."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names of their fields; absent ones are left out."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        return next(iter(self.tensors().values())).device

    def scale_cosines(self, cosines: Tensor) -> Tensor:
        """The encoder's logits of cosines, by the scale and bias in `params`."""
        logits: Tensor = self.params["logit_scale"] * cosines + self.params["logit_bias"]
        return logits


def scale_params(text: ClassText) -> dict[str, float]:
    """What `Head.scale_cosines` needs, as parts of a head's params."""
    return {"logit_scale": text.logit_scale, "logit_bias": text.logit_bias}


ROWS, SPATIAL_ROWS = 65536, 256
"""Images at a time, at most: a map of 7 x 7 tokens is fifty features, and is compared with every
class."""

NUMBERS = 1 << 22
"""Logits at a time, at most: 16 MiB. More are no faster: fresh memory of that size is slow."""


def predict(head: Head, features: Features) -> Tensor:
    """Logits of images, with their maps where the head needs them. (N, C)"""
    blocks = features.blocks(rows_at_a_time(head), **head.takes)
    return torch.cat([predict_in_blocks(head, block) for block in blocks])


@torch.inference_mode()
def predict_in_blocks(head: Head, x: Tensor, rows: int | None = None) -> Tensor:
    """Logits of features, computed a block at a time. (N, C)"""
    blocks = torch.split(x, rows or rows_at_a_time(head))
    logits = [head.logits(block.float()) for block in blocks]
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def in_kind(compute: Callable[[Tensor], Tensor], x: Numbers, head: Head) -> Numbers:
    """Compute on a tensor; an array goes to the device of the head, and the result comes back."""
    if isinstance(x, Tensor):
        return compute(x)
    rows = torch.from_numpy(np.require(x, requirements=["C", "W"]))  # copies only where it must
    return compute(rows.to(head.device)).cpu().numpy()


def rows_at_a_time(head: Head) -> int:
    """Images that a head takes at a time: each costs about as much as its longest axis."""
    longest = max(max(value.shape, default=1) for value in head.tensors().values())
    return max(1, min(SPATIAL_ROWS if head.spatial else ROWS, NUMBERS // max(1, longest)))
