"""Many multinomial logistic regressions on the same images, minimised side by side by L-BFGS."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps, as scikit-learn does."""

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


def logistic_regressions(
    x: Tensor,
    y: Tensor,
    strengths: Tensor,
    classes: int,
    *,
    tolerance: float = 1e-7,
    max_steps: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Minimise R regressions at once, in float64.

    Parameters
    ----------
    x : Tensor
        Images. (N, D)
    y : Tensor
        Class indices. (N,)
    strengths : Tensor
        scikit-learn's C of each regression. (R,)
    classes : int
        Number of classes.
    tolerance : float
        A regression is done when no element of its gradient is larger.
    max_steps : int
        Steps at most.

    Returns
    -------
    weights : Tensor
        (R, C, D)
    intercept : Tensor
        (R, C)
    """
    ones = x.new_ones(len(x), 1)
    problem = Problem(torch.cat([x, ones], dim=1).double(), y, 1 / (strengths.double() * len(y)))
    w = problem.x.new_zeros(len(strengths), classes, x.shape[1] + 1)
    active = torch.arange(len(w), device=x.device)
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    point, (value, grad) = w.clone(), problem.value(w)
    for _ in range(max_steps):
        open_ = grad.abs().amax(dim=(1, 2)) > tolerance  # (R,)
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
    return w[..., :-1], w[..., -1]


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
