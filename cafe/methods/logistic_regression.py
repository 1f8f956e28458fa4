"""Logistic regressions side by side by L-BFGS: of all classes at once, or of each alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from cafe.features.tensors import Features, TrainingSet
from cafe.methods.linear import LinearClassifier

Loss = Literal["softmax", "sigmoid"]
"""Classes exclude each other, or each is judged alone and several may be right."""

MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps, as scikit-learn does."""

STEPS = 1000
"""Of L-BFGS, at most."""

TOLERANCE = 1e-6
"""A regression is done when no element of its gradient is larger, a candidate's as the fit's."""

ARMIJO = 1e-4
"""Share of the promised decrease that a step must bring (Nocedal and Wright 2006, section 3.1)."""

SAME = 1e-3
"""Unit features that are no farther apart are of one and the same image or box."""


class Problem(NamedTuple):
    """R regressions: `C_r sum_n loss(W_r x_n + c_r, y_n) + |W_r|^2 / 2`, as scikit-learn's.

    The loss is cross-entropy, or with `sets` the sum of each class's binary one: then the minimum
    is that of scikit-learn's one-vs-rest classifier. Both terms are divided by `C_r N`, so that one
    tolerance suits all.
    """

    x: Tensor  # (N, D + 1), images with a last column of ones
    y: Tensor  # (N,)
    decay: Tensor  # (R,), 1 / (C_r N)
    sets: Tensor | None = None  # (N, C), 1 where a class is right

    def value(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (R,) and gradient (R, C, D + 1) at weights (R, C, D + 1)."""
        runs, classes, width = w.shape
        logits = (self.x @ w.view(-1, width).mT).view(-1, runs, classes)  # (N, R, C)
        sets = self.sets
        loss, error = self._softmax(logits) if sets is None else _sigmoid(logits, sets[:, None])
        grad = (error.view(-1, runs * classes).mT @ self.x).view(w.shape) / len(self.y)
        pull = w * self.decay[:, None, None]
        pull[..., -1] = 0  # the intercept is not penalised
        return (pull * w).sum(dim=(1, 2)) / 2 + loss, grad + pull

    def _softmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (R,) and its gradient by the logits (N, R, C)."""
        log_p = logits.log_softmax(dim=-1)
        labels = self.y.view(-1, 1, 1).expand(-1, logits.shape[1], 1)  # (N, R, 1)
        right = log_p.gather(2, labels)  # (N, R, 1)
        error = log_p.exp().scatter_add_(2, labels, -torch.ones_like(right))
        return -right.mean(dim=(0, 2)), error


def _sigmoid(logits: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """The same of each class against the rest, with the right classes (N, 1, C)."""
    loss = (softplus(logits) - sets * logits).sum(dim=2).mean(dim=0)
    return loss, logits.sigmoid() - sets


def label_sets(images: Features, classes: int) -> Tensor:
    """Which classes are right for each image. (N, C) float64

    Its own label, and those of images of the same features: a box of two classes is given once for
    each of them.
    """
    unit, labels = images.unit.double(), one_hot(images.y, classes).double()
    seed = torch.Generator().manual_seed(0)
    direction = torch.randn(unit.shape[1], generator=seed, dtype=torch.float64).to(unit.device)
    order = (unit @ direction).argsort()  # what is the same stands side by side
    is_new = (unit[order].diff(dim=0).norm(dim=1) > SAME).long()
    same = torch.empty_like(order)
    same[order] = torch.cat([is_new.new_zeros(min(len(order), 1)), is_new.cumsum(0)])
    sets = torch.zeros_like(labels).index_add_(0, same, labels)
    return sets[same].clamp_max(1)


def logistic_regressions(
    train: TrainingSet, cs: Sequence[float], loss: Loss = "softmax"
) -> LinearClassifier:
    """Minimise R logistic regressions side by side by L-BFGS, in float64.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    cs : sequence of float
        scikit-learn's C of each regression. (R,)
    loss : {"softmax", "sigmoid"}
        Multinomial, or one regression of each class against the rest.

    Returns
    -------
    LinearClassifier
        (R, C, D) and (R, C)
    """
    x, y = train.features.unit, train.features.y
    decay = 1 / (torch.tensor(cs, dtype=torch.float64, device=x.device) * len(y))  # (R,)
    sets = label_sets(train.features, len(train.text.names)) if loss == "sigmoid" else None
    problem = Problem(torch.cat([x, x.new_ones(len(x), 1)], dim=1).double(), y, decay, sets)
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
