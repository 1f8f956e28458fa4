"""OGA (Fuchs et al., CVPRW 2025, arXiv 2501.04352): Gaussian classes of a stream's sure images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cafe.methods.streaming.stream import EntropyCache, Sample, Stream, pack_cache, unpack_cache

PLACES = 8
"""Images kept for each class; the paper's."""

TAU = 0.05
"""Power of the likelihood; the paper's, fixed for all tasks."""

_FEWEST = 3  # images of one class before there is a covariance, as in the authors' code
_TINY = 1e-6


class Oga(Stream):
    """Probabilities times Gaussian likelihoods to the power of tau.

    `log p + tau log N(x; mu_c, S)`: mu_c is the mean of the class's cached images, S one covariance
    of all of them, inverted as `D ((N - 1) S + tr(S) I)^-1` (Kubokawa and Srivastava 2008) while
    there are at most 4 D images.

    Where the authors' code divides a mean by all places of a class, free ones too, this is the mean
    of the images that are there. A class with fewer than two takes the mean of the other means, so
    that it neither wins nor loses; the authors' code puts its text there.
    """

    name = "oga"
    source = "Fuchs et al. 2025, arXiv 2501.04352"

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.cache = EntropyCache(classes, PLACES, width)
        self._gaussian: tuple[Tensor, Tensor] | None = None  # W (C, D) and c (C,)

    def take(self, sample: Sample) -> None:
        """Keep an image of low entropy, and estimate the classes anew."""
        if self.cache.put(sample) is not None:
            self._gaussian = self._estimate()

    def shift(self, sample: Sample) -> Tensor:
        """`tau log N`, up to what all classes share. (C,)"""
        if self._gaussian is None:
            return torch.zeros(self.classes)
        weights, intercept = self._gaussian
        return TAU * (weights @ sample.x + intercept)

    def state(self) -> dict[str, Tensor]:
        """The cached images; see `Stream.state`."""
        return pack_cache(self.cache, "cache")

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take cached images; see `Stream.load`."""
        unpack_cache(self.cache, "cache", state)
        self._gaussian = self._estimate()

    def _estimate(self) -> tuple[Tensor, Tensor] | None:
        """`W = mu S^-1` and `c = -diag(W mu^T) / 2`; None before there is a covariance."""
        filled = self.cache.filled  # (C, K)
        counts = filled.sum(dim=1)  # (C,)
        if int(counts.max()) < _FEWEST:
            return None
        keys = self.cache.keys  # (C, K, D), zeros in free places
        known = counts >= 2
        means = keys.sum(dim=1) / counts.clamp_min(1)[:, None]
        means = torch.where(known[:, None], means, means[known].mean(dim=0))  # (C, D)
        centred = (keys - means[:, None])[filled & known[:, None]]  # (N, D)
        weights = solve_covariance(centred - centred.mean(dim=0), means)
        return weights, -(weights * means).sum(dim=1) / 2


def solve_covariance(centred: Tensor, means: Tensor) -> Tensor:
    """`means S^-1` with the covariance of centred features; see `Oga`. (C, D)"""
    count, width = centred.shape
    trace = (centred.square().sum() / (count - 1)).clamp_min(_TINY)
    few = count <= 4 * width
    ridge, factor = (trace, width) if few else (_TINY * trace, count - 1)
    if count < width:  # the same by the matrix inversion lemma, with (N, N) for (D, D)
        gram = centred @ centred.mT + ridge * torch.eye(count)
        inner = torch.cholesky_solve(centred @ means.mT, torch.linalg.cholesky(gram))  # (N, C)
        return factor * (means - inner.mT @ centred) / ridge
    scatter = centred.mT @ centred + ridge * torch.eye(width)
    return factor * torch.cholesky_solve(means.mT, torch.linalg.cholesky(scatter)).mT
