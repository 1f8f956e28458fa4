"""Everything random about a run: its initial weights and its batch order, from its seed alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Each purpose has a generator of its own: a head with more weights sees the same batches.
_WEIGHTS, _ORDER, _VIEWS = 0, 1, 2


def _generator(seed: int, purpose: int) -> torch.Generator:
    # torch keeps 32 bits of a CPU seed; hashing keeps the numbers of neighbouring seeds apart
    state = np.random.SeedSequence([seed, purpose]).generate_state(1)
    return torch.Generator("cpu").manual_seed(int(state[0]))


def linear_weights(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    """Initial weights of a stack of linear layers, as `torch.nn.Linear` draws them.

    Kaiming-uniform with a = sqrt(5) is uniform on +-1/sqrt(fan_in) (He et al. 2015, with the
    negative slope that torch chose).

    Parameters
    ----------
    seed : int
        Seed of the run.
    *shapes : (int, int)
        (outputs, inputs) of each layer, in the order of the draw.

    Returns
    -------
    list of Tensor
        One weight per shape, float32, on the CPU. (outputs, inputs)
    """
    generator = _generator(seed, _WEIGHTS)
    bounds = [1 / math.sqrt(inputs) for _, inputs in shapes]
    return [
        torch.empty(shape).uniform_(-bound, bound, generator=generator)
        for shape, bound in zip(shapes, bounds, strict=True)
    ]


def normal_weights(seed: int, std: float, shape: tuple[int, ...]) -> Tensor:
    """Initial weights drawn from N(0, std^2), float32, on the CPU.

    Parameters
    ----------
    seed : int
        Seed of the run.
    std : float
        Standard deviation.
    shape : tuple of int
        Of the weights.
    """
    return std * torch.randn(shape, generator=_generator(seed, _WEIGHTS))


class BatchOrder:
    """The order in which a run sees its images; depends on (seed, N, V) and the epoch only.

    Parameters
    ----------
    seed : int
        Seed of the run.
    images : int
        N, images in the training set.
    views : int
        V, views of each image to choose among; 1 for the plain features.
    """

    def __init__(self, seed: int, images: int, views: int = 1) -> None:
        self.images = images
        self.views = views
        self._order = _generator(seed, _ORDER)
        self._views = _generator(seed, _VIEWS)

    def epoch(self) -> Tensor:
        """Rows of the next epoch, in features flattened from (N, V) to (N * V). (N,)"""
        order = torch.randperm(self.images, generator=self._order)  # (N,)
        if self.views == 1:
            return order
        view = torch.randint(self.views, (self.images,), generator=self._views)  # (N,)
        return order * self.views + view  # view v of image n lies in row n V + v
