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

from cafe.engine.architecture import Architecture, Batch, Tensors
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.checks import check_not_negative
from cafe.methods.clip_adapter.architecture import AdapterArchitecture, VisualAdapter
from cafe.methods.clip_adapter.counterfactuals import contrast, counterfactuals


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

    gradients = Architecture.gradients  # those by hand know of no penalty

    def examples(self, train: TrainingSet) -> Features:
        """The images, each beside its counterfactual, in features of width 2 D."""
        features = train.features
        x = self._beside(features.x, features.y, train)  # (N, 2 D)
        if features.views is None:
            return Features(x, features.y)
        views = features.views.shape[1]
        flat, y = features.views.flatten(0, 1), features.y.repeat_interleave(views)
        pairs = self._beside(flat, y, train).view(len(x), views, -1)  # (N, V, 2 D)
        return Features(x, features.y, pairs)

    def _beside(self, x: Tensor, y: Tensor, train: TrainingSet) -> Tensor:
        """Raw features x (N, D) beside their counterfactuals of the same norms. (N, 2 D)"""
        x = x.float()
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        edited = counterfactuals(normalize(x, dim=-1), y, train, self.mask)
        return torch.cat([x, norms * edited], dim=-1)

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        """Features as the adapter takes them; counterfactuals too where there are some."""
        width = text.features.shape[-1]
        rows = super().rows(x[:, :width], text)
        if x.shape[-1] > width:  # images that are trained on
            norms = torch.linalg.vector_norm(x[:, :width], dim=-1, keepdim=True)
            by = norms.clamp_min(1e-12) if self.normalize_input else 1.0
            rows["edited"] = x[:, width:] / by
        return rows

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The weighted contrast of each run. (S, M)"""
        pair = (batch.rows["x"], batch.rows["edited"])  # (S, B, D) each
        z, edited = (normalize(self.blend(v, params, batch), dim=-1) for v in pair)
        own = batch.weights[batch.y][:, None]  # (S, 1, B, D)
        return self.weight * contrast(own, z, edited, batch.scale).mean(dim=-1)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: blends of three kinds and what autograd keeps of them."""
        return parameters + rows * (16 * width + 6 * self.bottleneck) + 8 * rows * classes


def check_counterfactual(weight: float, architecture: type[AdapterArchitecture]) -> float:
    """A weight of the contrast, or a refusal.

    Raises
    ------
    InputError
        If it is below 0, or above 0 for another branch than the visual one.
    """
    number = check_not_negative("counterfactual", weight)
    if number and architecture is not VisualAdapter:
        raise InputError(
            "counterfactuals are of image features, and this method adapts class weights too or "
            "alone; leave counterfactual out, or take clip-adapter."
        )
    return number
