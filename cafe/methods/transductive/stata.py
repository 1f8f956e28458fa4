"""StatA (Zanella et al. 2025, arXiv 2501.03729): TransCLIP held at the text by statistics."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText
from cafe.methods.head import Head
from cafe.methods.transductive.pool_head import FromStart, MixtureHead
from cafe.methods.transductive.transclip import alternate, shared_variance


class StatA(FromStart):
    """StatA on the answers of another head: for pools that may hold any number of the classes.

    As TransCLIP, with a diagonal covariance for each class, and with mean and covariance of a class
    held at the text by `1 - b_c`, `b_c = n_c / (n_c + 1)` for the `n_c` pool images that are taken
    for it: a class without images stays where its text is.
    """

    __doc__ += (FromStart.__doc__ or "").partition("pool.\n")[2]

    name = "stata"
    summary = "StatA: as transclip, for pools that may hold few of the classes"
    source = "Zanella et al. 2025, arXiv 2501.03729"
    head: ClassVar[type[Head]] = MixtureHead

    def solve(self, p: Tensor, text: ClassText) -> dict[str, Tensor]:
        """See `FromStart.solve`."""
        x, anchor = self.pool.unit, text.weights
        anchor_variance = shared_variance(x.square().sum(dim=0), p, p.mT @ x, anchor)  # (1, D)

        def update(z: Tensor) -> tuple[Tensor, Tensor]:
            return _anchored(x, z, anchor, anchor_variance)

        return alternate(x, p, (anchor, anchor_variance.expand_as(anchor)), update)


def _anchored(
    x: Tensor, z: Tensor, anchor: Tensor, anchor_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and variances of the pool's images, held at the text's. (C, D) each"""
    hard = torch.bincount(z.argmax(dim=1), minlength=z.shape[1]).to(x)  # (C,)
    share = (hard / (hard + 1))[:, None]  # (C, 1)
    counts = z.sum(dim=0).clamp_min(1e-12)[:, None]
    sums = z.mT @ x
    mu = normalize(share * normalize(sums, dim=-1) + (1 - share) * anchor, dim=-1)
    squares = (z.mT @ x.square() - 2 * sums * mu) / counts + mu.square()  # (C, D)
    held = anchor_variance + (anchor - mu).square()
    return mu, (share * squares + (1 - share) * held).clamp_min(1e-6)
