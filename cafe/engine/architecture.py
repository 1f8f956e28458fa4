"""What the trainer and the heads that it trains agree on; knows no head by name.

Runs are laid out as S streams of M runs, R = S * M. A *stream* is one training set in one batch
order, so the runs of a stream see the same images at every step, and a product with them is one
matrix product. Every tensor of runs therefore starts with (S, M, ...), every tensor of images with
(S, B, ...), and a run's scalar is (S, M, 1, 1), ready to broadcast against (S, M, B, D).

To add a head, write a frozen dataclass that subclasses `Architecture`. Its fields are what must be
equal for two runs to train side by side (a width, a switch). What may differ from run to run goes
into `Run.scalars`. Give it `initial` and `logits`, and it trains on unit features: the loss is mean
cross-entropy and the gradients come from autograd, under autocast where products are bfloat16::

    @dataclass(frozen=True)
    class TaskResidual(Architecture):
        def initial(self, run, train):
            return {"r": torch.zeros_like(train.text.weights)}                     # (C, D)

        def logits(self, params, batch):
            w = batch.weights + batch.scalars["alpha"] * params["r"]               # (S, M, C, D)
            return batch.scale * shared_product(batch.rows["x"], normalize(w, dim=-1))

A head that takes other features overrides `rows`, one of another loss overrides `losses`, and one
that is worth it overrides `gradients` with a backward pass written by hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.engine.optimizer import Recipe
from cafe.engine.workspace import Workspace
from cafe.features.tensors import ClassText, Features, TrainingSet

Tensors = Mapping[str, Tensor]
"""Tensors by name."""


@dataclass(frozen=True)
class Run:
    """One head to train.

    Attributes
    ----------
    architecture : Architecture
        What kind of head; runs of equal architectures can share their products.
    data : int
        Index of the training set.
    seed : int
        Seed of the initial weights and of the batch order, and of nothing else.
    recipe : Recipe
        The optimiser's settings.
    scalars : mapping of str to float
        What the architecture lets differ from run to run ("ratio", ...).
    """

    architecture: Architecture
    data: int = 0
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A run that is done.

    Attributes
    ----------
    run : Run
        What was asked for.
    tensors : dict of str to Tensor
        The float32 master weights, shaped as the architecture's `initial` gives them.
    precision : str
        Precision of the matrix products, "fp32" or "bf16".
    """

    run: Run
    tensors: dict[str, Tensor]
    precision: str


@dataclass(frozen=True)
class Batch:
    """What S streams of M runs see in one step, or when they are evaluated.

    Attributes
    ----------
    rows : mapping of str to Tensor
        What `Architecture.rows` gave for these images. (S, B, ...) In training also "number", the
        row of each in its training set. (S, B)
    y : Tensor
        Class indices. (S, B)
    scalars : mapping of str to Tensor
        The runs' scalars. (S, M, 1, 1)
    constants : mapping of str to Tensor
        What `Architecture.constants` gave for the training sets. (S, 1, ...)
    weights : Tensor
        Zero-shot class weights `w`. (C, D)
    scale, bias : float
        The encoder's logit scale and logit bias.
    """

    rows: Tensors
    y: Tensor
    scalars: Tensors
    constants: Tensors
    weights: Tensor
    scale: float
    bias: float


class Architecture(ABC):
    """What heads that train side by side have in common. A subclass is a frozen dataclass.

    Attributes
    ----------
    undecayed : frozenset of str
        Names of parameters that weight decay leaves alone.
    spatial : bool
        Whether `rows` gets the spatial map of each image too, as `Features.inputs` gives it.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset()
    spatial: ClassVar[bool] = False

    @abstractmethod
    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """Initial parameters of one run, float32, a function of its seed, scalars and data."""

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:  # noqa: ARG002 (overrides use it)
        """What a step needs of raw image features `x` (N, D), computed once. Each (N, ...)."""
        return {"x": normalize(x, dim=-1)}

    @abstractmethod
    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores of a batch under every run. (S, M, B, C)"""

    def examples(self, train: TrainingSet) -> Features:
        """The labelled images to train on; an architecture may add some (class texts, for one)."""
        return train.features

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:  # noqa: ARG002 (overrides use it)
        """What else the head needs of its training set, of one shape for all sets."""
        return {}

    def penalty(self, params: Tensors, batch: Batch) -> Tensor | None:  # noqa: ARG002 (same)
        """A term added to each run's loss (S, M), or None."""
        return None

    def losses(self, params: Tensors, batch: Batch, work: Workspace) -> Tensor:
        """Each run's loss on a batch: cross-entropy of `logits`, and the penalty. (S, M)"""
        with work.autocast():
            logits = self.logits(params, batch)  # (S, M, B, C)
        # in float32: a bfloat16 sum of 1,000 exponentials has two digits
        losses = mean_cross_entropy(logits.to(work.wide), batch.y)
        penalty = self.penalty(params, batch)
        return losses if penalty is None else losses + penalty

    def row_numbers(self, width: int) -> int:
        """Numbers that `rows` keeps of an image, at most; `width` is D."""
        return width

    def constant_numbers(self, train: TrainingSet) -> int:  # noqa: ARG002 (overrides use it)
        """Numbers that are held while `constants` is made and after: an upper estimate."""
        return 0

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:  # noqa: ARG002 (same)
        """Numbers that a step holds per run, beside parameters and optimiser: an upper estimate."""
        return 6 * parameters + 6 * rows * classes

    def takes_kernels(self) -> bool:
        """Whether `gradients` uses `work.kernels`, and writes gradients in the type of products."""
        return False

    def gradients(self, params: Tensors, batch: Batch, grads: Tensors, work: Workspace) -> None:
        """Write the gradient of each run's loss into `grads`; this default asks autograd.

        Parameters
        ----------
        params, grads : mapping of str to Tensor
            Master weights, and where their gradients go; float32. (S, M, ...)
        batch : Batch
            The images and constants of this step.
        work : Workspace
            Reusable buffers; `work.product` is the type of matrix products.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            losses = self.losses(leaves, batch, work)
            # A run's loss depends on its own parameters only, so the sum's gradient is each run's.
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            grads[name].copy_(gradient)  # in place: the optimiser holds these tensors


def mean_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each run, mean over its batch.

    Parameters
    ----------
    logits : Tensor
        Class scores. (S, M, B, C)
    y : Tensor
        Class indices. (S, B)

    Returns
    -------
    Tensor
        Losses. (S, M)
    """
    labels = y[:, None].expand(logits.shape[:-1])  # (S, M, B)
    classes_second = logits.permute(0, 3, 1, 2)  # (S, C, M, B), as torch takes them
    return cross_entropy(classes_second, labels, reduction="none").mean(-1)


def shared_product(x: Tensor, weights: Tensor) -> Tensor:
    """`x w^T` for the runs of each stream, one matrix product a stream.

    Parameters
    ----------
    x : Tensor
        Features that the runs of a stream share. (S, B, D)
    weights : Tensor
        Each run's matrix. (S, M, K, D)

    Returns
    -------
    Tensor
        Products. (S, M, B, K)
    """
    streams, runs, rows, _ = weights.shape
    # one wide product instead of M narrow ones: a CPU reaches its rate on wide ones only
    product = torch.bmm(x, weights.flatten(1, 2).mT)  # (S, B, M * K)
    return product.view(streams, -1, runs, rows).transpose(1, 2)  # (S, M, B, K)
