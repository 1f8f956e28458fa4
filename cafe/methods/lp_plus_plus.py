"""LP++ (Huang et al., CVPR 2024, arXiv 2404.02285): a linear probe that blends in the texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from cafe.engine.stack import flatten_views
from cafe.features.tensors import TrainingSet, class_averages
from cafe.methods.base import Context
from cafe.methods.checks import check_count
from cafe.methods.linear import Candidates, LinearClassifier, SolvedLinear

MOMENTUM = 0.9
EVERY = 10
"""Steps of the prototypes to one of the multipliers, as in the authors' code."""

START = 2.5
"""Multipliers start at this many times the logit scale times the mean cosine of image and text:
the authors' 250 for OpenAI's scale of 100."""


class LpPlusPlus(SolvedLinear):
    """A linear probe blended with the class texts: `x V^T + b + alpha * (x w^T)`.

    The class prototypes V, their intercepts b and a multiplier alpha for each class minimise the
    mean cross-entropy. V starts at the sums of the shots of each class. Block by block each step is
    one over a bound of the curvature, which the shots give, so that no learning rate is chosen:
    `4 N / lambda_max(X^T X)` for V and b, and `N / (4 max_c sum_n (x_n w_c)^2)` for alpha. The
    authors stop at the step that is best on validation images; here all steps are taken.

    Parameters
    ----------
    steps : int
        Steps on all shots; 300 is the authors'.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If there is no step.
    """

    name = "lp++"
    summary = "a linear probe with a learned multiplier of each class's text"
    source = "Huang et al. 2024, arXiv 2404.02285"
    no_new_classes = "a prototype is learnt per class, and a new class has none"

    def __init__(self, steps: int = 300, *, context: Context | None = None) -> None:
        super().__init__(context)
        self.default, self.candidates = {"steps": check_count("steps", steps)}, []

    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """See `SolvedLinear.solve`; one candidate."""
        (params,) = candidates
        flat, w = flatten_views(train.features), train.text.weights
        x = normalize(flat.x.float(), dim=-1)  # (N, D)
        v, b, alpha = descend(x, flat.y, w, train.text.logit_scale, int(params["steps"]))
        weights = v + alpha[:, None] * w  # (C, D)
        return LinearClassifier(weights[None], (b + train.text.logit_bias)[None])


def descend(
    x: Tensor, y: Tensor, w: Tensor, scale: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Learn prototypes, intercepts and multipliers, block by block.

    Parameters
    ----------
    x : Tensor
        Unit features. (N, D)
    y : Tensor
        Class indices. (N,)
    w : Tensor
        Unit class texts. (C, D)
    scale : float
        The encoder's logit scale.
    steps : int
        Steps of the prototypes.

    Returns
    -------
    v, b, alpha : Tensor
        (C, D), (C,) and (C,)
    """
    count, classes = len(x), len(w)
    target, texts = one_hot(y, classes).to(x), x @ w.mT  # (N, C)
    step_v = 4 * count / torch.linalg.matrix_norm(x, 2).square()
    step_alpha = count / (4 * texts.square().sum(dim=0).max())
    means = class_averages(y, classes) @ x  # (C, D)
    counts = target.sum(dim=0)  # (C,)
    # a class without an image starts at the mean of the others'
    v = means * torch.where(counts > 0, counts, counts.mean())[:, None]
    b = x.new_zeros(classes)
    alpha = (START * scale * (means @ w.mT).mean()).expand(classes).clone()
    speed_v, speed_b = torch.zeros_like(v), torch.zeros_like(b)
    for step in range(1, steps + 1):
        error = (torch.softmax(x @ v.mT + b + alpha * texts, dim=-1) - target) / count  # (N, C)
        speed_v = MOMENTUM * speed_v + error.mT @ x
        speed_b = MOMENTUM * speed_b + error.sum(dim=0)
        v, b = v - step_v * speed_v, b - step_v * speed_b
        if step % EVERY == 0:
            alpha = alpha - step_alpha * (error * texts).sum(dim=0)
    return v, b, alpha
