"""How a run is optimised."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cafe.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a run is optimised: AdamW with a cosine decay to 0, one decay step a batch.

    Attributes
    ----------
    lr : float
        Learning rate of the first step.
    weight_decay : float
        Decoupled weight decay per unit of learning rate. The default is torch's, so that a plain
        `AdamW(lr=1e-3)` is the reference; over some hundred steps it takes 1e-3 of a weight.
    epochs : int
        Passes over the training set.
    batch_size : int
        B; the last batch of an epoch is smaller where B does not divide N, and is not dropped.
    views : bool
        Take, for each image in each epoch, one of its augmented views at random, where the training
        set has them; False takes the plain features.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 50
    batch_size: int = 256
    views: bool = True

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch size", self.batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        for name, rate in (("learning rate", self.lr), ("weight decay", self.weight_decay)):
            if not 0 <= rate < math.inf:
                raise InputError(f"{name} must be a number from 0 up; got {rate}.")
