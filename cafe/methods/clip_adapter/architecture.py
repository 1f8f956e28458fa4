"""CLIP-Adapter's adapters as the engine trains them; knows no few-shot protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine.architecture import Architecture, Batch, Run, Tensors, Trained, shared_product
from cafe.engine.draws import linear_weights
from cafe.engine.workspace import Workspace
from cafe.features.tensors import TrainingSet
from cafe.methods.clip_adapter.gradients import visual_gradients

RATIO_GAIN = 20.0
"""A learned ratio is `sigmoid(RATIO_GAIN * u)`: AdamW moves `u` by its learning rate a step, and
at 1e-3 over some hundred steps the ratio would not leave its start otherwise."""


def adapt(x: Tensor, down: Tensor, up: Tensor, *, final_relu: bool = True) -> Tensor:
    """The adapter `A(x) = relu(relu(x W1) W2)` of one run.

    Gao et al. (arXiv 2110.04544), equation 3, has the inner ReLU only; the authors' released
    module has the outer one too.

    Parameters
    ----------
    x : Tensor
        Features. (N, D)
    down : Tensor
        W1 transposed: the weight of `nn.Linear(D, H)`. (H, D)
    up : Tensor
        W2: the weight of `nn.Linear(H, D)` transposed. (H, D)
    final_relu : bool
        Whether there is a ReLU after W2.

    Returns
    -------
    Tensor
        Adapted features. (N, D)
    """
    adapted = torch.relu(x @ down.mT) @ up  # (N, D)
    return torch.relu(adapted) if final_relu else adapted


@dataclass(frozen=True)
class AdapterArchitecture(Architecture):
    """What the adapters of the visual, the text and both branches share.

    They take unit features: without a bias, raw ones give the same after the norm.

    Scalars: "ratio", the weight of the adapted image features, and "text_ratio", that of the
    adapted class weights; each the start of a learned one.

    Attributes
    ----------
    bottleneck : int
        H, width of the hidden layer.
    final_relu : bool
        ReLU after the second layer, as the authors' module has and their formula has not.
    learn_ratio : bool
        Train the ratios too, one per run.
    """

    bottleneck: int
    final_relu: bool = True
    learn_ratio: bool = False

    undecayed: ClassVar[frozenset[str]] = frozenset({"ratio_u", "text_ratio_u"})
    branches: ClassVar[tuple[str, ...]] = ()

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """Weights as `nn.Linear` draws them; a learned ratio starts at the run's scalar."""
        width, hidden = train.text.weights.shape[-1], self.bottleneck
        shapes = [(hidden, width), (width, hidden)] * len(self.branches)
        drawn = iter(linear_weights(run.seed, *shapes))
        params = {}
        for prefix in self.branches:
            params[f"{prefix}down"] = next(drawn)  # (H, D)
            params[f"{prefix}up"] = next(drawn).mT.contiguous()  # (H, D)
            if self.learn_ratio:
                start = torch.tensor(run.scalars[f"{prefix}ratio"])
                params[f"{prefix}ratio_u"] = torch.logit(start, eps=1e-4).view(1, 1) / RATIO_GAIN
        return params

    def ratio(self, params: Tensors, batch: Batch, prefix: str = "") -> Tensor:
        """The ratio in force. (S, M, 1, 1)"""
        learned = params.get(f"{prefix}ratio_u")
        if learned is None:
            return batch.scalars[f"{prefix}ratio"]
        return torch.sigmoid(RATIO_GAIN * learned)

    def blend(self, v: Tensor, params: Tensors, batch: Batch, prefix: str = "") -> Tensor:
        """`a A(v) + (1 - a) v` of every run, for features that a stream shares. (S, M, B, D)"""
        hidden = torch.relu(shared_product(v, params[f"{prefix}down"]))  # (S, M, B, H)
        adapted = torch.matmul(hidden, params[f"{prefix}up"])  # (S, M, B, D)
        if self.final_relu:
            adapted = torch.relu(adapted)
        a = self.ratio(params, batch, prefix)
        return a * adapted + (1 - a) * v[:, None]

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: blends and their gradients, hidden layers, logits."""
        sides = rows * ("" in self.branches) + classes * ("text_" in self.branches)
        return parameters + sides * (4 * width + 3 * self.bottleneck) + 4 * rows * classes


@dataclass(frozen=True)
class TextAdapter(AdapterArchitecture):
    """The text branch: `s norm(x) norm(b A(w) + (1 - b) w)^T`."""

    branches: ClassVar[tuple[str, ...]] = ("text_",)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        x = normalize(batch.rows["x"], dim=-1)  # (S, B, D)
        w = batch.weights.expand(len(x), -1, -1)  # (S, C, D)
        adapted = normalize(self.blend(w, params, batch, "text_"), dim=-1)  # (S, M, C, D)
        return batch.scale * shared_product(x, adapted) + batch.bias


@dataclass(frozen=True)
class BothAdapter(AdapterArchitecture):
    """Both branches: `s norm(a A(x) + (1 - a) x) norm(b A'(w) + (1 - b) w)^T`."""

    branches: ClassVar[tuple[str, ...]] = ("", "text_")

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        x = batch.rows["x"]  # (S, B, D)
        w = batch.weights.expand(len(x), -1, -1)  # (S, C, D)
        images = normalize(self.blend(x, params, batch), dim=-1)  # (S, M, B, D)
        classes = normalize(self.blend(w, params, batch, "text_"), dim=-1)  # (S, M, C, D)
        return batch.scale * torch.matmul(images, classes.mT) + batch.bias


@dataclass(frozen=True)
class VisualAdapter(AdapterArchitecture):
    """The visual branch: `s norm(a A(x) + (1 - a) x) w^T`, with a backward pass by hand."""

    branches: ClassVar[tuple[str, ...]] = ("",)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        blend = normalize(self.blend(batch.rows["x"], params, batch), dim=-1)  # (S, M, B, D)
        return batch.scale * torch.matmul(blend, batch.weights.mT) + batch.bias

    def takes_kernels(self) -> bool:
        """See `Architecture.takes_kernels`; the gradient of a learned ratio has none."""
        return not self.learn_ratio

    def gradients(self, params: Tensors, batch: Batch, grads: Tensors, work: Workspace) -> None:
        """See `Architecture.gradients`."""
        a = self.ratio(params, batch)
        along = grads.get("ratio_u")
        visual_gradients(params, batch, grads, work, a, final_relu=self.final_relu, along=along)
        if along is not None:
            along.mul_(RATIO_GAIN * (a - 1))  # da/du = RATIO_GAIN a (1 - a)


def ratios_in_force(trained: Trained) -> dict[str, float]:
    """The ratios of a trained run by name, learned ones as they came out."""
    found = dict(trained.run.scalars)
    for name in AdapterArchitecture.undecayed & trained.tensors.keys():
        found[name.removesuffix("_u")] = float(torch.sigmoid(RATIO_GAIN * trained.tensors[name]))
    return found
