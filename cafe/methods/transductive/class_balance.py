"""The class balance of a pool, where somebody knows it: given, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cafe.errors import InputError, UnknownNameError, counted
from cafe.features.pool import Pool
from cafe.methods.transductive.soft_labels import Answers, pool_answers, soft_labels

ClassBalance = Mapping[str, float] | Literal["uniform"]
"""Class name -> how many pool images are of it, as counts or shares; "uniform": equally many."""

ROUNDS = 20
"""Of `balancing`: the shares are met to a hundredth long before."""

_STILL = 1e-6  # a step of a logit that is rounding
_LEAST = 1e-6  # of a share: the logarithm of none is no number


def classes_held(counts: Tensor) -> float:
    """How many classes a pool seems to hold, from 1 to C: the perplexity of its mean answer.

    Parameters
    ----------
    counts : Tensor
        Sums of its soft labels. (C,)
    """
    return float(torch.special.entr(counts / counts.sum()).sum().exp())


def class_shares(balance: ClassBalance | None, names: tuple[str, ...]) -> Tensor | None:
    """The share of each class as a tensor that sums to 1; None where it is not given. (C,)

    Raises
    ------
    InputError
        If a class is missing, unknown or negative.
    """
    if balance is None:
        return None
    if balance == "uniform":
        return torch.full((len(names),), 1 / len(names))
    if isinstance(balance, str):
        raise InputError(f"class_balance must be 'uniform' or a share per class; got '{balance}'.")
    if missing := [name for name in names if name not in balance]:
        raise InputError(
            f"the class balance lacks {counted(len(missing), 'class')}, {missing[0]!r} among them; "
            "give a number for each, 0 where the pool has none."
        )
    for name in balance:
        if name not in names:
            raise UnknownNameError("class of the class balance", name, names)
    shares = torch.tensor([float(balance[name]) for name in names])
    if not shares.isfinite().all() or shares.min() < 0 or shares.sum() <= 0:
        raise InputError("the numbers of a class balance must be at least 0, and one above 0.")
    return shares / shares.sum()


def balancing(answers: Answers, pool: Pool, shares: Tensor) -> Tensor:
    """What to add to the logits so that the answers on the pool have these shares. (C,)

    `b_c += log(N share_c) - log sum_i softmax(z_i + b)_c` until it stands: the optimal transport of
    the answers to the class balance (Sinkhorn; OTTER, arXiv 2404.08461, has it without entropy).
    """
    blocks = pool_answers(answers, pool, len(shares))
    wanted = (len(pool) * shares.clamp_min(_LEAST)).log().to(blocks[0].device)  # (C,)
    shift = torch.zeros_like(wanted)
    for _ in range(ROUNDS):
        sums = torch.stack([soft_labels(z + shift).sum(dim=0) for z in blocks]).sum(dim=0)
        step = wanted - sums.clamp_min(_LEAST).log()
        shift = shift + step
        if step.abs().max() < _STILL:
            break
    return shift - shift.mean()
