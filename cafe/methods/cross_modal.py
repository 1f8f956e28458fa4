"""Cross-modal linear probe (Lin et al., CVPR 2023, arXiv 2301.06267): class texts as shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Batch, Recipe, Run, Trained, mean_cross_entropy, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.linear import LinearHead, Prototypes, TrainedLinear


@dataclass(frozen=True)
class CrossModal(Prototypes):
    """`s x W^T` with W trained from w on images and, in equal number, prompts (equation 4).

    Half of the authors' batches are texts. Here each image of a batch brings one text, of a class
    and a prompt that change from epoch to epoch, and the two losses are added. A batch shows a
    class's first B prompts, where it has more.
    """

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """Unit features of every prompt, and how many each class has."""
        unit = normalize(train.text.features, dim=-1)  # (C, P, D)
        return {"prompts": unit, "counts": unit.any(dim=-1).sum(dim=-1)}

    def constant_numbers(self, train: TrainingSet) -> int:
        """See `Architecture.constant_numbers`."""
        return 2 * train.text.features.numel()

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores of images. (S, M, B, C)"""
        return batch.scale * shared_product(batch.rows["x"], params["w"]) + batch.bias

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The loss of the texts. (S, M)"""
        texts, labels = shown_texts(batch)
        logits = batch.scale * shared_product(texts, params["w"]) + batch.bias  # (S, M, B, C)
        return mean_cross_entropy(logits, labels)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: images and texts."""
        return 4 * parameters + 12 * rows * classes + rows * width


def shown_texts(batch: Batch) -> tuple[Tensor, Tensor]:
    """A text for each image of a batch (S, B, D), and its class (S, B)."""
    prompts, counts = batch.constants["prompts"], batch.constants["counts"]
    streams, _, classes = counts.shape  # (S, 1, C)
    place = torch.arange(batch.y.shape[1], device=batch.y.device)  # (B,), shuffled images
    labels = (batch.rows["number"] + place) % classes  # (S, B)
    which = place % counts[:, 0].gather(1, labels)  # (S, B)
    stream = torch.arange(streams, device=batch.y.device)[:, None]  # (S, 1)
    return prompts[stream, 0, labels, which], labels


class CrossModalLinear(TrainedLinear):
    """A linear probe from the class texts, with every prompt as a training sample: `s norm(x) W^T`.

    Parameters
    ----------
    rates, decays : sequence of float
        Candidates under validation, from the most conservative on; the authors' grid.
    recipe : Recipe or None
        How to optimise. The authors take AdamW for 12,800 steps of 8 or 32 samples and search rate
        and decay. None takes their smaller rate, their largest decay and 300 epochs in batches of
        256, on augmented views where the cache has them. Nothing stops early: the authors also look
        at the validation images every 100 steps and keep the best step; here the last one counts
        under every protocol, and validation chooses rate and decay only.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If a rate is not above 0.
    """

    name = "cross-modal"
    summary = "linear probe from the class texts, with every prompt as a training sample"
    source = "Lin et al. 2023, arXiv 2301.06267"
    head = LinearHead
    architecture = CrossModal()
    published = Recipe(lr=1e-4, weight_decay=1e-2, epochs=300, batch_size=256, views=True)

    def __init__(
        self,
        *,
        rates: Sequence[float] = (1e-4, 1e-3),
        decays: Sequence[float] = (1e-2, 1e-4, 0.0),
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        self.rates = tuple(check_positive("lr", rate) for rate in rates)
        self.decays = tuple(decays)

    def candidates(self, run: Run) -> list[Run]:
        """One run for each rate and decay."""
        return [
            replace(run, recipe=replace(run.recipe, lr=rate, weight_decay=decay))
            for rate in self.rates
            for decay in self.decays
        ]

    def class_weights(self, trained: Trained, text: ClassText) -> Tensor:
        """The trained weights as they are. (C, D)"""
        return trained.tensors["w"]
