"""Tip-Adapter's search for alpha and beta, as a tensor operation.

For one beta an image is classified rightly under alpha when
`(z_y - z_c) + alpha (q_y - q_c) >= 0` for every class c, with z the zero-shot logits and q the
cache's. Each class bounds alpha from one side, so the alphas that are right for an image are one
interval, and twenty of them cost no more than one. The likelihood, which only breaks ties, is
computed for the ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.methods.checks import check_count, check_positive
from cafe.methods.validation import pick_best

BLOCK = 1 << 24
"""Numbers that a step of the search may hold at a time."""


@dataclass(frozen=True)
class CandidateGrid:
    """Candidates, as the authors' code lays them out: from 0.1 on in equal steps.

    Attributes
    ----------
    most_beta, most_alpha : float
        End of each range, itself left out. The authors choose it per dataset, from (7, 3) for
        ImageNet to (30, 30) for aircraft; 13 for both is their choice for textures, and holds all
        values that they start from.
    betas, alphas : int
        Number of steps.
    """

    most_beta: float = 13.0
    most_alpha: float = 13.0
    betas: int = 200
    alphas: int = 20

    def __post_init__(self) -> None:
        check_positive("most_beta", self.most_beta)
        check_positive("most_alpha", self.most_alpha)
        check_count("betas", self.betas)
        check_count("alphas", self.alphas)

    def values(self) -> tuple[Tensor, Tensor]:
        """The betas and the alphas, ascending, float64."""
        return _steps(self.most_beta, self.betas), _steps(self.most_alpha, self.alphas)


def _steps(most: float, count: int) -> Tensor:
    return 0.1 + torch.arange(count, dtype=torch.float64) * (most - 0.1) / count


class Affinities(NamedTuple):
    """A cache and held-out images."""

    affinity: Tensor  # (n, M), cosines to the keys
    values: Tensor  # (M, C), one-hot labels of the keys
    zero_shot: Tensor  # (n, C), logits
    y: Tensor  # (n,)


def search(caches: Sequence[Affinities], grid: CandidateGrid) -> tuple[float, float]:
    """The pair with the most hits, added up over caches.

    Parameters
    ----------
    caches : sequence of Affinities
        One for a validation set, one per fold under cross-validation.
    grid : CandidateGrid
        Candidates.

    Returns
    -------
    alpha, beta : float
        Of equals, the pair with the lowest likelihood loss; of those, the smallest. See
        `cafe.methods.validation.pick_best`.
    """
    betas, alphas = grid.values()
    hits = torch.stack([count_hits(cache, betas, alphas) for cache in caches]).sum(dim=0)  # (b, a)
    ties = torch.nonzero(hits == hits.max())  # (T, 2)
    pairs = torch.stack([betas[ties[:, 0]], alphas[ties[:, 1]]], dim=1)  # (T, 2)
    nats = torch.stack([_sum_nats(cache, pairs) for cache in caches]).sum(dim=0)  # (T,)
    images = sum(len(cache.y) for cache in caches)
    beta, alpha = pairs[pick_best(hits[ties[:, 0], ties[:, 1]], nats / images)].tolist()
    return alpha, beta


def count_hits(cache: Affinities, betas: Tensor, alphas: Tensor) -> Tensor:
    """Images that each pair classifies rightly.

    Parameters
    ----------
    cache : Affinities
    betas, alphas : Tensor
        Candidates. (b,) and (a,)

    Returns
    -------
    Tensor
        Counts, on the CPU. (b, a)
    """
    wanted = cache.y[:, None]  # (n, 1)
    ahead = cache.zero_shot.gather(1, wanted) - cache.zero_shot  # (n, C), z_y - z_c
    counts = []
    for votes in _cache_logits(cache, betas):
        labels = wanted.expand(len(votes), -1, -1)  # (b, n, 1)
        gain = votes.gather(2, labels) - votes  # (b, n, C), q_y - q_c
        bound = -ahead / gain
        low = bound.masked_fill(gain <= 0, -torch.inf).amax(dim=-1)  # (b, n)
        high = bound.masked_fill(gain >= 0, torch.inf).amin(dim=-1)  # (b, n)
        lost = ((gain == 0) & (ahead < 0)).any(dim=-1)  # no alpha helps
        high = high.masked_fill(lost, -torch.inf)
        a = alphas.to(low)  # (a,)
        counts.append(((low[..., None] <= a) & (a <= high[..., None])).sum(dim=1).cpu())
    return torch.cat(counts)


def _cache_logits(cache: Affinities, betas: Tensor) -> Iterator[Tensor]:
    """`exp(-beta (1 - affinity)) V` for a few betas at a time. (b, n, C)"""
    distance = cache.affinity - 1  # (n, M)
    for block in torch.split(betas, max(1, BLOCK // distance.numel())):
        yield (block.to(distance)[:, None, None] * distance).exp() @ cache.values


def _sum_nats(cache: Affinities, pairs: Tensor) -> Tensor:
    """Negative log-likelihood of each (beta, alpha). (T,)"""
    sums = []
    step = max(1, BLOCK // max(cache.affinity.numel(), cache.zero_shot.numel()))
    for block in torch.split(pairs, step):
        votes = torch.cat(list(_cache_logits(cache, block[:, 0])))  # (t, n, C)
        logits = cache.zero_shot + block[:, 1].to(votes)[:, None, None] * votes  # (t, n, C)
        labels = cache.y.expand(len(block), -1)  # (t, n)
        sums.append(cross_entropy(logits.mT, labels, reduction="none").double().sum(dim=-1).cpu())
    return torch.cat(sums)
