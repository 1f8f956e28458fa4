"""The temperature of a study's heads, fitted on what they have not seen; knows no encoder.

Probabilities are `softmax(z / T)` (Guo et al. 2017, arXiv 1706.04599), with one T per method and
shot count. The order of the classes stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.devices import torch_threads
from cafe.features.splits import Rows, draw_folds, first_folds
from cafe.features.task import StoredFeatures
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Job, Validation
from cafe.methods.catalog import find_method, make_method
from cafe.methods.head import Head, predict
from cafe.methods.several_encoders import fit_heads
from cafe.results.metrics import accuracy
from cafe.results.result import NOT_CALIBRATED, Calibration
from cafe.study.plan import StudyPlan

ENOUGH = 2000
"""Held-out images that a single number needs at most: beyond, no further fold is fitted."""

LOGITS = 1 << 26
"""Logits that are held for it at most, 256 MiB: of very many classes, fewer images are judged."""

WIDEST = 100.0
"""Temperatures are sought from 1 / WIDEST to WIDEST."""

_MOST_STEPS = 60
_CLOSE = 1e-10  # relative

_BLOCK = (1 << 15) - 1
"""Logits that are widened to float64 at a time: within a core's cache."""


def cautious_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the lowest likelihood loss, for as few images as a class's shots.

    A handful of images may all be right, and then the likeliest temperature is 0 and every answer
    certain. So targets are smoothed as if one more image had any label (Platt 1999, for two
    classes).

    Parameters
    ----------
    logits : Tensor
        (N, C), N at least 1.
    labels : Tensor
        Class indices. (N,)

    Returns
    -------
    float
        T, from 0.01 to 100: above 1 where the head is too sure of itself.

    Examples
    --------
    >>> logits = torch.tensor([[6.0, 0.0], [6.0, 0.0], [0.0, 6.0], [0.0, 6.0]])
    >>> round(cautious_temperature(logits, torch.tensor([0, 0, 1, 0])), 1)  # 3 of 4, all very sure
    7.1
    """
    blocks = torch.split(logits, _rows(logits))
    if not any((z - z[:, :1]).any() for z in blocks):
        return 1.0  # a head without an opinion: every temperature is as good
    own = logits.gather(1, labels[:, None]).squeeze(1).double()  # (N,)
    smoothing = 1 / (len(logits) + 1)
    average = torch.cat([z.double().mean(dim=1) for z in blocks])  # (N,)
    target = ((1 - smoothing) * own + smoothing * average).mean().item()
    factor, low, high = 1.0, 0.0, math.inf  # 1 / T, and between what it is known to be
    for _ in range(_MOST_STEPS):  # Newton's: the loss is convex in 1 / T, its slope has one zero
        moments = torch.cat([_moments(z.double(), factor) for z in blocks], dim=1)
        expected, variance = (float(value) for value in moments.mean(dim=1))
        excess = expected - target
        low, high = (low, factor) if excess > 0 else (factor, high)
        step = 0.0 if excess > 0 else math.inf  # inf also where a logit is not finite
        if variance > 0:
            step = factor - excess / variance
        step = min(max(step, factor / 4, 1 / WIDEST), 4 * factor, WIDEST)
        if abs(step / factor - 1) < _CLOSE:
            return 1 / step
        factor = step if low < step < high else math.sqrt(low * high)
    return 1 / factor


def _moments(z: Tensor, factor: float) -> Tensor:
    """Mean and variance of each image's logits under `softmax(factor z)`. (2, n)"""
    weighted = torch.softmax(factor * z, dim=1).mul_(z)
    mean = weighted.sum(dim=1)
    return torch.stack([mean, torch.linalg.vecdot(weighted, z) - mean.square()])


def calibrate(
    method: str,
    heads: Sequence[Head],
    plan: StudyPlan,
    shots: Features | StoredFeatures,
    text: ClassText,
    validations: Sequence[Validation],
    context: Context,
) -> Calibration:
    """Fit the temperature of a method's heads of all seeds, never on a test image.

    Where the plan looks at validation images, every head is judged on its own. Else the method is
    fitted again on folds of the first seed's shots, until `ENOUGH` images are judged.

    Parameters
    ----------
    method : str
    heads : sequence of Head
        One per seed of the plan.
    plan : StudyPlan
    shots : Features or StoredFeatures
        The shots of the first seed.
    text : ClassText
        The classes' text.
    validations : sequence of Validation
        What each seed may look at.
    context : Context
    """
    if plan.validation in ("few-shot", "full"):
        held_out = [v.features for v in validations if v.features is not None]
        most = most_judged(len(text.names) * len(held_out))
        judged = zip(heads, held_out, strict=True)
        pairs = [judge(head, features, most) for head, features in judged if len(features)]
        return fit_temperature(pairs, "validation")
    settings = settings_in_force(method, plan.settings, heads[0].params)
    return out_of_fold(method, settings, shots, text, seed=plan.seeds[0], context=context)


def _rows(logits: Tensor) -> int:
    return max(1, _BLOCK // logits.shape[1])


def most_judged(classes: int) -> int:
    """Images that a temperature is fitted on at most, for so many logits of each."""
    return max(1, min(ENOUGH, LOGITS // classes))


@torch_threads(1)  # torch splits the softmax of a few rows, and its threads wait for each other
def fit_temperature(
    pairs: Sequence[tuple[Tensor, Tensor]], source: Literal["validation", "out-of-fold", "test"]
) -> Calibration:
    """The calibration by pairs of logits (N, C) and labels (N,) of images not fitted on."""
    if not pairs:
        return NOT_CALIBRATED
    logits, labels = torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs])
    temperature = cautious_temperature(logits, labels)
    nats = [
        cross_entropy(z.double() / temperature, y, reduction="sum").item()
        for z, y in zip(
            *(torch.split(part, _rows(logits)) for part in (logits, labels)), strict=True
        )
    ]
    nll = sum(nats) / len(labels)
    right = accuracy(logits, labels)
    return Calibration(temperature, source, len(labels), right, nll if math.isfinite(nll) else None)


@torch_threads(1)  # for few images; two wait for each other, on a busy machine for seconds
def judge(head: Head, features: Features, most: int) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and labels (n,) of `most` images, or of all, evenly from all of them."""
    chosen = features[_spread(len(features), most)]
    return predict(head, chosen.to(head.device)).cpu(), chosen.y.cpu()


def settings_in_force(
    method: str, settings: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """A study's settings with what validation chose in its head's `params`, to fit it again."""
    own = {name: params[name] for name in find_method(method).settings() if name in params}
    learned = {name: value for name, value in settings.items() if value == "learn"}
    return {**settings, **own, **learned}


def out_of_fold(
    method: str,
    settings: Mapping[str, Any],
    images: Features | StoredFeatures,
    text: ClassText,
    *,
    seed: int = 0,
    context: Context | None = None,
) -> Calibration:
    """Calibrate a method on its own training images, each judged by a fit without it.

    Parameters
    ----------
    method : str
        A name of the catalog.
    settings : mapping
        Its hyper-parameters.
    images : Features or StoredFeatures
        The shots.
    text : ClassText
        The classes' text.
    seed : int
        Seed of the folds and of the fits.
    context : Context or None
        Where and how to compute; None is the CPU.

    Returns
    -------
    Calibration
        Without a temperature where no class has two images.
    """
    folds = _folds(images, seed, most_judged(len(text.names)))
    if not folds:
        return NOT_CALIBRATED
    context = context or Context()
    device, text = context.device, text.to(context.device)
    jobs = [Job(TrainingSet(images[kept].to(device), text), seed=seed) for kept, _ in folds]
    fitted = fit_heads(make_method(method, context, settings), jobs)
    held_out = [images[out] for _, out in folds]
    pairs = [judge(h, part, len(part)) for h, part in zip(fitted, held_out, strict=True)]
    return fit_temperature(pairs, "out-of-fold")


def _folds(images: Features | StoredFeatures, seed: int, most: int = ENOUGH) -> Rows:
    """As many of the folds as hold `most` images together; none where no class has two."""
    folds = draw_folds(images.y, seed, groups=images.groups)
    return [_trim(*fold, most) for fold in first_folds(folds, most)]


def _trim(kept: Tensor, out: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Hold no more out than is needed: `most` images, evenly from the classes."""
    chosen = _spread(len(out), most)
    rest = torch.ones(len(out), dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([kept, out[rest]]), out[chosen]


def _spread(count: int, most: int) -> Tensor:
    """`most` of so many rows, or all, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()
