"""Linear probe: logistic regression on image features, or a cosine probe from the class texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.checks import check_positive
from cafe.methods.head import Head
from cafe.methods.linear import CosineHead, LinearClassifier, LinearHead, Prototypes, TrainedLinear
from cafe.methods.validation import Fold, choose, folds_for

MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps, as scikit-learn does."""

STEPS = 1000
"""Of L-BFGS, at most."""

TOLERANCE = 1e-6
"""A regression is done when no element of its gradient is larger, a candidate's as the fit's."""

ARMIJO = 1e-4
"""Share of the promised decrease that a step must bring (Nocedal and Wright 2006, section 3.1)."""


class Problem(NamedTuple):
    """R regressions: `C_r sum_n CE(W_r x_n + c_r, y_n) + |W_r|^2 / 2`, as scikit-learn's.

    Both terms are divided by `C_r N`, so that one tolerance suits all.
    """

    x: Tensor  # (N, D + 1), images with a last column of ones
    y: Tensor  # (N,)
    decay: Tensor  # (R,), 1 / (C_r N)

    def value(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (R,) and gradient (R, C, D + 1) at weights (R, C, D + 1)."""
        runs, classes, width = w.shape
        logits = (self.x @ w.view(-1, width).mT).view(-1, runs, classes)  # (N, R, C)
        log_p = logits.log_softmax(dim=-1)
        labels = self.y.view(-1, 1, 1).expand(-1, runs, 1)  # (N, R, 1)
        right = log_p.gather(2, labels)  # (N, R, 1)
        error = log_p.exp().scatter_add_(2, labels, -torch.ones_like(right))  # (N, R, C)
        grad = (error.view(-1, runs * classes).mT @ self.x).view(w.shape) / len(self.y)
        pull = w * self.decay[:, None, None]
        pull[..., -1] = 0  # the intercept is not penalised
        return (pull * w).sum(dim=(1, 2)) / 2 - right.mean(dim=(0, 2)), grad + pull


def logistic_regressions(train: TrainingSet, cs: Sequence[float]) -> LinearClassifier:
    """Minimise R multinomial logistic regressions side by side by L-BFGS, in float64.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    cs : sequence of float
        scikit-learn's C of each regression. (R,)

    Returns
    -------
    LinearClassifier
        (R, C, D) and (R, C)
    """
    x, y = train.features.unit, train.features.y
    decay = 1 / (torch.tensor(cs, dtype=torch.float64, device=x.device) * len(y))  # (R,)
    problem = Problem(torch.cat([x, x.new_ones(len(x), 1)], dim=1).double(), y, decay)
    w = problem.x.new_zeros(len(cs), len(train.text.names), x.shape[1] + 1)
    active = torch.arange(len(w), device=x.device)
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    point, (value, grad) = w.clone(), problem.value(w)
    for _ in range(STEPS):
        open_ = grad.abs().amax(dim=(1, 2)) > TOLERANCE  # (R,)
        if not open_.all():
            w[active[~open_]] = point[~open_]
            active, point, value, grad = active[open_], point[open_], value[open_], grad[open_]
            problem = problem._replace(decay=problem.decay[open_])
            history = deque(((s[open_], g[open_]) for s, g in history), maxlen=MEMORY)
        if not len(active):
            break
        direction = _direction(grad, history)
        before, slope = (point, grad), _dot(direction, grad)
        point, value, grad = _line_search(problem, point, value, direction, slope)
        history.append((point - before[0], grad - before[1]))
    w[active] = point
    return LinearClassifier(w[..., :-1], w[..., -1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each regression's. (R,)"""
    return (a * b).sum(dim=(1, 2))


def _times(scalars: Tensor, a: Tensor) -> Tensor:
    return scalars[:, None, None] * a


def _direction(grad: Tensor, history: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian times the gradient (Nocedal and Wright 2006, algorithm 7.4)."""
    if not history:
        return -_times(1 / grad.flatten(1).norm(dim=1), grad)
    q, undo = grad.clone(), []
    for step, change in reversed(history):
        # A regression that stood still has no curvature to tell of, and its pair is left out.
        curvature = _dot(step, change)  # (R,)
        rho = torch.where(curvature > 0, 1 / curvature, 0)
        alpha = rho * _dot(step, q)
        q -= _times(alpha, change)
        undo.append((step, change, rho, alpha))
    newest_step, newest_change = history[-1]
    scale = _dot(newest_step, newest_change) / _dot(newest_change, newest_change)
    q = _times(torch.where(scale > 0, scale, 1.0), q)
    for step, change, rho, alpha in reversed(undo):
        q += _times(alpha - rho * _dot(change, q), step)
    return -q


def _line_search(
    problem: Problem, point: Tensor, value: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each regression's step until it brings enough: the new point, value, gradient."""
    length = torch.ones_like(value)  # (R,)
    for _ in range(30):
        trial = point + _times(length, direction)
        found, grad = problem.value(trial)
        short = found > value + ARMIJO * length * slope  # (R,)
        if not short.any():
            break
        length = torch.where(short, length / 2, length)
    return trial, found, grad


IMAGE_NORM = 10.0
"""Norm of OpenAI CLIP's raw image features for ViT-B/32, roughly. The C that is published for them
does the same on unit features when it is multiplied by the square."""


class LinearProbe(TrainedLinear):
    """A linear classifier on unit image features.

    Its logits are `norm(x) W^T + c`, or `s norm(x) norm(W)^T` where W started from the class texts.

    Parameters
    ----------
    start : {"zero", "zero-shot"}
        "zero" is plain logistic regression by L-BFGS (Radford et al. 2021, section 3.2), which
        knows nothing of the texts. "zero-shot" trains a cosine classifier from the class texts, by
        the engine: ZS-LP of Silva-Rodriguez et al. 2024 (arXiv 2312.12730).
    c : float
        Inverse strength of the L2 penalty for "zero". The example of CLIP's authors has 0.316 on
        raw features; on unit ones that is 0.316 * `IMAGE_NORM` ** 2.
    cs : sequence of float
        Candidates for c under validation, from the most conservative on. CoOp's linear probe
        (arXiv 2109.01134) searches 1e-6 to 1e6 in steps of 100 on raw features; this is the part
        that is not plainly too strong or without effect on unit ones. "zero-shot" has none.
    recipe : Recipe or None
        How to optimise for "zero-shot"; None is that of ZS-LP with AdamW at 1e-4 in the place of
        SGD at 0.1: 300 epochs in batches of 256, on augmented views where the cache has them.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If `start` is neither, or c is not above 0.
    """

    name = "linear-probe"
    summary = "logistic regression, or a cosine probe started from the class texts"
    source = "Radford et al. 2021, arXiv 2103.00020; start: arXiv 2312.12730"
    head = LinearHead
    no_new_classes = "a row of the head is learnt per class from its shots"
    architecture = Prototypes()
    published = Recipe(lr=1e-4, weight_decay=0.0, epochs=300, views=True)

    def __init__(
        self,
        start: Literal["zero", "zero-shot"] = "zero",
        c: float = 0.316 * IMAGE_NORM**2,
        *,
        cs: Sequence[float] = (0.1, 1.0, 10.0, 1e2, 1e3, 1e4),
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        if start not in ("zero", "zero-shot"):
            raise InputError(f"start must be 'zero' or 'zero-shot'; got '{start}'.")
        self.start, self.in_force = start, {"start": start}
        self.c = check_positive("c", c)
        self.cs = tuple(check_positive("c", candidate) for candidate in cs)

    @classmethod
    def reads_text(cls, settings: Mapping[str, Any]) -> bool:
        """Plain logistic regression does not; see `Method.reads_text`."""
        return settings.get("start") == "zero-shot"

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """Logits are cosines where W started from the texts; see `Method.make_head`."""
        kind = CosineHead if params["start"] == "zero-shot" else LinearHead
        return kind(**tensors, params=params, method=cls.name)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job; "zero-shot" trains all of them side by side."""
        if self.start == "zero-shot":
            return super().fit_many(jobs)
        return [self._fit_plain(job) for job in jobs]

    def _fit_plain(self, job: Job) -> Head:
        folds = folds_for(job)
        c = choose(self.cs, self.c, folds, map(self._candidates, folds))
        weights, intercept = logistic_regressions(job.train, [c])
        tensors = {"weights": weights[0].float(), "intercept": intercept[0].float()}
        return self.make_head(tensors, {**self.in_force, "c": c})

    def _candidates(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images, all regressions side by side. (G, n, C)"""
        weights, intercept = logistic_regressions(fold.train, self.cs)
        return fold.held_out.unit.double() @ weights.mT + intercept[:, None]
