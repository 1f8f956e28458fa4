"""The visual adapter trained with counterfactual features (after CPL, arXiv 2210.10362).

CPL teaches the texts to tell an image from its counterfactual; here the texts are CLIP's and the
adapter learns it: beside cross-entropy there is the contrast of adapted features with adapted
counterfactuals. It needs no encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine.contract import Batch, Family, Tensors
from cafe.errors import InputError
from cafe.features import TrainingSet
from cafe.methods.adapter import AdapterFamily, VisualAdapter
from cafe.methods.checks import check_not_negative
from cafe.methods.counterfactual import Edits, contrast, edit_tables


@dataclass(frozen=True)
class CounterfactualAdapter(VisualAdapter):
    """`VisualAdapter` with the contrast for a penalty; gradients come from autograd.

    Attributes
    ----------
    weight : float
        Of the contrast; 1 is the authors'.
    mask : float
        Factor on the smallest mask; 0 is `VisualAdapter`.
    """

    weight: float = 1.0
    mask: float = 1.0

    gradients = Family.gradients  # those by hand know of no penalty

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """How each class is edited; see `edit_tables`."""
        return edit_tables(train)

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The weighted contrast of each run. (S, M)"""
        x, y = batch.rows["x"], batch.y  # (S, B, D), (S, B)
        tables = {name: batch.constants[name][:, 0] for name in ("pulls", "negatives")}  # (S, C, D)
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        unit = normalize(x, dim=-1)
        edited = Edits(**tables, factor=self.mask)(unit, y) * norms  # (S, B, D)
        z, z_edited = (normalize(self.blend(v, params, batch), dim=-1) for v in (x, edited))
        own = batch.weights[y][:, None]  # (S, 1, B, D)
        return self.weight * contrast(own, z, z_edited, batch.scale).mean(dim=-1)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Family.activations`: blends of three kinds and what autograd keeps of them."""
        return parameters + rows * (16 * width + 6 * self.bottleneck) + 8 * rows * classes


def check_counterfactual(weight: float, family: type[AdapterFamily]) -> float:
    """A weight of the contrast, or a refusal.

    Raises
    ------
    InputError
        If it is below 0, or above 0 for another branch than the visual one.
    """
    number = check_not_negative("counterfactual", weight)
    if number and family is not VisualAdapter:
        raise InputError(
            "counterfactuals are of image features, and this method adapts class weights too or "
            "alone; leave counterfactual out, or take clip-adapter."
        )
    return number
