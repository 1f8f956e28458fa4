"""A linear probe on whitened features, held near zero-shot by a penalty; a method of cafe's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.lda_prior import measure, posterior
from cafe.methods.linear import Candidates, LinearClassifier, SolvedLinear

PENALTIES = (0.1, 0.03, 0.01, 0.003)
"""Candidates, the strongest first."""

KAPPA = 3.0
"""Images that the text is worth in the class means that features are whitened about."""

STEPS, TOLERANCE = 200, 1e-4


class MapProbe(SolvedLinear):
    """Zero-shot CLIP plus a linear probe: the most probable one under a Gaussian prior.

    `z = L^-1 (norm(x) - m)`, scaled to a mean norm of 1 on the shots, with `L L^T` the scatter
    within classes of `lda_prior.posterior`; and `V` minimises
    `sum_n CE(s x_n w^T + z_n V^T, y_n) + penalty / 2 |V|^2`, which is convex. Whitening makes one
    penalty right for directions in which images of one class differ little or much. The logits are
    `s norm(x) w^T + z V^T`, plus the encoder's logit bias. Without text of the classes, w is 0.

    Parameters
    ----------
    penalty : float
        One over the variance of the prior on every weight.
    penalties : sequence of float
        Candidates under validation, the strongest first.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If a penalty is not above 0.
    """

    name = "map-probe"
    summary = "a linear probe on whitened features, held near zero-shot by a penalty"
    source = "cafe 2026, docs/research/auto.md"
    works_without_text = True  # the probe starts from zero, and the penalty holds it there

    def __init__(
        self,
        penalty: float = 0.01,
        *,
        penalties: Sequence[float] = PENALTIES,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.default = {"penalty": check_positive("penalty", penalty)}
        self.candidates = [{"penalty": check_positive("penalty", value)} for value in penalties]

    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """See `SolvedLinear.solve`."""
        return fit_probes(train, [candidate["penalty"] for candidate in candidates])


def fit_probes(train: TrainingSet, penalties: Sequence[float]) -> LinearClassifier:
    """Probes of several penalties side by side, as linear heads on unit features.

    Parameters
    ----------
    train : TrainingSet
        The shots, at least one.
    penalties : sequence of float
        One per probe, each above 0.

    Returns
    -------
    LinearClassifier
        (G, C, D) and (G, C)
    """
    features, text = train.features, train.text
    moments = measure(features, text.weights)
    factor = torch.linalg.cholesky(posterior(moments, KAPPA)[1])  # (D, D)
    centred = features.unit.double() - moments.centre  # (N, D)
    z = torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT  # (N, D)
    norm = z.norm(dim=-1).mean().clamp_min(torch.finfo(torch.float32).eps)
    base = text.logit_scale * features.unit @ text.weights.mT  # (N, C)
    v = minimise((z / norm).float(), features.y, base, base.new_tensor(list(penalties)))
    # z V^T = (x - m) (V L^-1)^T / norm, so that the head needs no whitening of its own
    flat = v.double().flatten(0, 1) / norm  # (G * C, D)
    unwhitened = torch.linalg.solve_triangular(factor.mT, flat.mT, upper=True).mT.view(v.shape)
    weights = text.logit_scale * text.weights + unwhitened.float()  # (G, C, D)
    return LinearClassifier(weights, text.logit_bias - (unwhitened @ moments.centre).float())


def minimise(z: Tensor, y: Tensor, base: Tensor, penalties: Tensor) -> Tensor:
    """Minimise `sum_n CE(base_n + z_n V^T, y_n) + penalty / 2 |V|^2` for several penalties.

    Accelerated gradient steps that start over where they turn uphill (O'Donoghue and Candes 2015,
    arXiv 1204.3982), of one over the curvature: at most `|Z|^2 / 2 + penalty`.

    Parameters
    ----------
    z : Tensor
        Features. (N, D)
    y : Tensor
        Class indices. (N,)
    base : Tensor
        Logits that the probe adds to. (N, C)
    penalties : Tensor
        (G,)

    Returns
    -------
    Tensor
        V. (G, C, D)
    """
    target = one_hot(y, base.shape[1]).to(base.dtype)  # (N, C)
    decay = penalties[:, None, None]
    step = 1 / (torch.linalg.matrix_norm(z, 2).square() / 2 + decay)  # (G, 1, 1)
    v = z.new_zeros(len(penalties), base.shape[1], z.shape[1])  # (G, C, D)
    ahead, age = v, torch.zeros_like(step)
    for _ in range(STEPS):
        error = torch.softmax(base + z @ ahead.mT, dim=-1) - target  # (G, N, C)
        slope = error.mT @ z + decay * ahead  # (G, C, D)
        if float(slope.abs().max()) < TOLERANCE:
            break
        before, v = v, ahead - step * slope
        uphill = (slope * (v - before)).sum(dim=(1, 2), keepdim=True) > 0  # (G, 1, 1)
        age = torch.where(uphill, 0.0, age + 1)
        ahead = v + age / (age + 3) * (v - before)
    return v
