"""SgVA-CLIP's adapter as the engine trains it: three losses on one adapted feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import (
    Architecture,
    Batch,
    Run,
    Workspace,
    linear_weights,
    mean_cross_entropy,
    shared_product,
)
from cafe.engine.architecture import Tensors
from cafe.features.tensors import TrainingSet


@dataclass(frozen=True)
class SgvaArchitecture(Architecture):
    """`f = norm(m A(x) + (1 - m) x)` with `A(x) = relu(x W1) W2` and a trained mix m.

    With the prototypes `p_c`, means of f over the shots of a class, and the class texts `w_c`, the
    loss is the sum of the paper's three, each over a batch::

        vision-specific contrast     CE(s f p^T, y)
        cross-modal contrast         CE(s f w^T, y)
        implicit distillation        CE(s f w^T / T, softmax(s x w^T / T))

    As in the authors' code (FannierPeng/SgVA-CLIP) the terms weigh the same and the distillation
    lacks the usual T^2. Three things differ. There the adapter takes features from before CLIP's
    last projection and has a ReLU behind the mix; what a cache holds is projected and signed, so
    that a ReLU would break even m = 0. Their cross-modal term trains prompts on plain features,
    which is a constant where prompts are fixed: here it guides the adapter. And an episode there
    is a draw of classes, here it is a batch against all of them.

    Scalar: "alpha", the weight of the prototypes in the score; it takes no part in training.

    Attributes
    ----------
    hidden : int
        H.
    shots : int
        N, how many images the prototypes are made of; an upper estimate, for the memory.
    temperature : float
        T.
    mix : float
        Where m starts.
    """

    hidden: int
    shots: int
    temperature: float
    mix: float

    undecayed: ClassVar[frozenset[str]] = frozenset({"mix"})

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """Weights as `nn.Linear` draws them."""
        width = train.text.weights.shape[-1]
        down, up = linear_weights(run.seed, (self.hidden, width), (width, self.hidden))
        return {
            "down": down,  # (H, D)
            "up": up.mT.contiguous(),  # (H, D)
            "mix": torch.full((1, 1), self.mix),
        }

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """The shots and whose prototype each counts for."""
        return {"shots": train.features.unit, "members": train.averages}  # (N, D), (C, N)

    def constant_numbers(self, train: TrainingSet) -> int:
        """See `Architecture.constant_numbers`."""
        shots, classes = train.features, len(train.text.names)
        return 2 * (shots.x.numel() + len(shots) * classes)

    def blend(self, v: Tensor, params: Tensors) -> Tensor:
        """`m A(v) + (1 - m) v` for features that a stream shares. (S, M, B, D)"""
        hidden = torch.relu(shared_product(v, params["down"]))  # (S, M, B, H)
        mix = params["mix"]  # (S, M, 1, 1)
        return mix * torch.matmul(hidden, params["up"]) + (1 - mix) * v[:, None]

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores `s (a f p^T + (1 - a) x w^T)`. (S, M, B, C)"""
        x, alpha = batch.rows["x"], batch.scalars["alpha"]
        adapted = normalize(self.blend(x, params), dim=-1)  # (S, M, B, D)
        shots = normalize(self.blend(batch.constants["shots"][:, 0], params), dim=-1)
        prototypes = batch.constants["members"] @ shots  # (S, M, C, D)
        plain = (x @ batch.weights.mT)[:, None]  # (S, 1, B, C)
        score = alpha * (adapted @ prototypes.mT) + (1 - alpha) * plain
        return batch.scale * score + batch.bias

    def losses(self, params: Tensors, batch: Batch, work: Workspace) -> Tensor:
        """The sum of the three losses. (S, M)"""
        with work.autocast():
            adapted = self.blend(batch.rows["x"], params)  # (S, M, B, D)
            shots = self.blend(batch.constants["shots"][:, 0], params)  # (S, M, N, D)
        # Cosines of prototypes are near 1, where bfloat16 is a logit off: these products are wide.
        adapted, shots = normalize(adapted, dim=-1), normalize(shots, dim=-1)
        prototypes = batch.constants["members"] @ shots  # (S, M, C, D)
        by_image = batch.scale * (adapted @ prototypes.mT)  # (S, M, B, C)
        by_text = batch.scale * (adapted @ batch.weights.mT)  # (S, M, B, C)
        return (
            mean_cross_entropy(by_image, batch.y)
            + mean_cross_entropy(by_text, batch.y)
            + self._distillation(by_text, batch)
        )

    def _distillation(self, by_text: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy to zero-shot's softened answer. (S, M)"""
        plain = batch.scale * (batch.rows["x"] @ batch.weights.mT)  # (S, B, C)
        teacher = torch.softmax(plain / self.temperature, dim=-1)[:, None]  # (S, 1, B, C)
        student = torch.log_softmax(by_text / self.temperature, dim=-1)  # (S, M, B, C)
        return -(teacher * student).sum(dim=-1).mean(dim=-1)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: batch and shots as they are adapted, and three logits."""
        sides = (rows + self.shots) * (5 * width + 3 * self.hidden)
        return 2 * parameters + sides + 14 * rows * classes + 2 * classes * width
