"""Linear discriminant analysis of the shots alone: Gaussian classes that share a covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.lda_prior import gaussian, measure
from cafe.methods.linear import Candidates, LinearClassifier, SolvedLinear

KAPPAS = (10.0, 3.0, 1.0, 0.3)
"""Candidates, from the most careful on."""

WEIGHT = 0.3
"""Factor on the logits, which does not change an answer: few shots make the Gaussians too sure."""


class Lda(SolvedLinear):
    """A Gaussian classifier that reads no text: `lda-prior` without its prior and zero-shot.

    Class means are drawn towards their common mean, which counts as `kappa` images: with few shots
    they are noise (James and Stein 1961). The covariance is that of `lda_prior.posterior`.

    Parameters
    ----------
    kappa : float
        Images that the common mean is worth.
    kappas : sequence of float
        Candidates under validation.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If a kappa is not above 0.
    """

    name = "lda"
    summary = "Gaussian classes with one covariance, of the shots alone; reads no text"
    source = "Fisher 1936, Annals of Eugenics 7(2); regularised as lda-prior"
    no_new_classes = "a class is the mean of its shots, and a new class has none"

    def __init__(
        self,
        kappa: float = 3.0,
        *,
        kappas: Sequence[float] = KAPPAS,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.default = {"kappa": check_positive("kappa", kappa)}
        self.candidates = [{"kappa": check_positive("kappa", value)} for value in kappas]

    @classmethod
    def reads_text(cls, _settings: Mapping[str, Any]) -> bool:
        """It looks at images alone; see `Method.reads_text`."""
        return False

    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """See `SolvedLinear.solve`; in float64."""
        moments = measure(train.features, torch.zeros_like(train.text.weights))
        fits = [gaussian(moments, candidate["kappa"]) for candidate in candidates]
        weights, intercepts = (torch.stack(parts) for parts in zip(*fits, strict=True))
        return LinearClassifier(WEIGHT * weights, WEIGHT * intercepts)
