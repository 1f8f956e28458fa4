"""CPL (He et al. 2022, arXiv 2210.10362): prompts that tell an image from its counterfactual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_not_negative
from cafe.methods.clip_adapter.counterfactual_architecture import contrast, counterfactuals
from cafe.methods.prompt_learning.coop import Coop
from cafe.methods.prompt_learning.prompts import TextTower
from cafe.methods.prompt_learning.training import Objective


@dataclass(frozen=True)
class CounterfactualObjective(Objective):
    """Cross-entropy plus the weighted contrast of images with their counterfactuals.

    Attributes
    ----------
    weight : float
        Of the contrast.
    factor : float
        Of the masks.
    """

    weight: float
    factor: float

    def see(self, x: Tensor, y: Tensor, train: TrainingSet) -> Tensor:
        """Every image beside its counterfactual; see `Objective.see`. (N, 2 D)"""
        edited = counterfactuals(x, y, train, self.factor)
        return torch.cat([x, normalize(edited, dim=-1)], dim=-1)

    def __call__(self, classes: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Each run's loss; see `Objective`. (R,)"""
        factual, edited = x.chunk(2, dim=-1)  # (R, B, D) each
        run = torch.arange(len(y), device=y.device)[:, None]  # (R, 1)
        told_apart = contrast(classes[run, y], factual, edited, self.text.logit_scale)  # (R, B)
        return super().__call__(classes, factual, y) + self.weight * told_apart.mean(dim=-1)


class Cpl(Coop):
    """CoOp's prompts under CPL's loss.

    The paper adds `0.07 |u|_1` and trains a mask that is held to the smallest one (0.999 parts to
    0.001). Here the mask is the smallest one itself, in closed form and whatever the prompts are,
    so that term has nothing to train and is left out. The paper's prompts are CoCoOp's, shifted
    image by image; here they are CoOp's, so that the fitted head is linear. Its confusable
    classes are those of the most similar text, by CLIP's own features.

    Parameters
    ----------
    contrast : float
        Weight of the contrast; 1 is the authors'.
    mask : float
        Factor on the smallest mask, from 0 (CoOp) to 1.
    prompt, class_specific, tower, recipe, context
        See `Coop`.

    Raises
    ------
    InputError
        If contrast or mask is out of bounds, and as `Coop`.
    """

    name = "cpl"
    summary = "coop that also tells images from counterfactuals of their most confusable class"
    source = "He et al. 2022, arXiv 2210.10362"

    def __init__(
        self,
        prompt: int | str = 16,
        *,
        contrast: float = 1.0,
        mask: float = 1.0,
        class_specific: bool = False,
        tower: TextTower | None = None,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(
            prompt, class_specific=class_specific, tower=tower, recipe=recipe, context=context
        )
        self.contrast = check_not_negative("contrast", contrast)
        self.mask = check_not_negative("mask", mask)
        if self.mask > 1:
            raise InputError(f"mask must be from 0 (CoOp) to 1 (the smallest mask); got {mask}.")

    def objective(self, text: ClassText) -> Objective:
        """See `Coop.objective`."""
        return CounterfactualObjective(text, self.contrast, self.mask)

    def in_force(self) -> dict[str, Any]:
        """See `Coop.in_force`."""
        return {**super().in_force(), "contrast": self.contrast, "mask": self.mask}
