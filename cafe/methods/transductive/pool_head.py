"""Heads that keep the answers of a pool, and the methods that fit them from another head's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from cafe.errors import InputError
from cafe.features.pool import SAME, Pool
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import find_method, make_method
from cafe.methods.head import Head
from cafe.methods.transductive.class_balance import ClassBalance, balancing, class_shares
from cafe.methods.transductive.graph import index_of, search
from cafe.methods.transductive.pool_method import PoolMethod
from cafe.methods.transductive.soft_labels import LEAST, pool_labels

_START = "start."


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolHead(Head):
    """An image of the pool gets the answer that the pool gave it; any other image a last round.

    A saved head holds the pool's features and answers, and is as large as they are.
    """

    keys: Tensor  # unit features of the pool, (N, D)
    answers: Tensor  # its probabilities, (N, C)

    no_graph: ClassVar[str] = "it looks its answers up in the pool"

    @cached_property
    def _index(self) -> Any:
        return index_of(self.keys)

    def logits(self, x: Tensor) -> Tensor:
        """Log-probabilities; see `Head.logits`. (N, C)"""
        unit = normalize(x, dim=-1)
        cosines, rows = search(self._index, unit, self.params["neighbours"])
        known = (cosines[:, :1] >= SAME).expand(-1, self.answers.shape[1])
        own = self.answers[rows[:, 0]].clamp_min(LEAST).log()
        if bool(known.all()):
            return own
        return torch.where(known, own, self.last_round(x, unit, cosines, rows))

    @abstractmethod
    def last_round(self, x: Tensor, unit: Tensor, cosines: Tensor, rows: Tensor) -> Tensor:
        """Log-probabilities of images that are not in the pool, from their neighbours. (n, C)"""


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureHead(PoolHead):
    """`p exp((log N + votes of neighbours) / 50)`, `p` being the answer of the head `start`."""

    mu: Tensor  # (C, D)
    variance: Tensor  # diagonal, (1, D) where classes share it, or (C, D)
    shift: Tensor  # added to the logits of `start`, for a class balance, (C,)
    start: Head = field(repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Its own, and those of the head that it started from."""
        start = {f"{_START}{name}": tensor for name, tensor in self.start.tensors().items()}
        return {**super().tensors(), **start}

    def last_round(self, x: Tensor, unit: Tensor, cosines: Tensor, rows: Tensor) -> Tensor:
        """See `PoolHead.last_round`."""
        votes = (cosines.clamp_min(0)[..., None] * self.answers[rows]).sum(dim=1)
        votes = votes / rows.shape[1]
        own = (self.start.logits(x) + self.shift).log_softmax(dim=-1)
        density = log_density(unit, self.mu, self.variance) / TEMPERATURE
        return (own + density + votes).log_softmax(dim=-1)


TEMPERATURE = 50.0
"""What the authors of TransCLIP divide log-densities by, in their code."""


def log_density(unit: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
    """Log-density of Gaussians with diagonal covariances, up to a constant. (n, C)"""
    precision = 1 / variance  # (1 or C, D)
    squares = unit.square() @ precision.mT - 2 * unit @ (mu * precision).mT
    return -(squares + (mu.square() * precision).sum(dim=-1) + variance.log().sum(dim=-1)) / 2


class FromStart(PoolMethod):
    """A method that begins with the answers of another head on a pool.

    Parameters
    ----------
    start : str
        The method whose head begins, fitted on the same shots.
    pool : Pool or array
        Raw features without labels. (N, D)
    class_balance : mapping of str to float, "uniform" or None
        How many pool images are of each class, where that is known; it is never assumed.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If there is no pool, or the start is a method that needs more than a cache.
    """

    def __init__(
        self,
        start: str = "auto",
        *,
        pool: Pool | ArrayLike | None = None,
        class_balance: ClassBalance | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(pool, class_balance, context)
        if find_method(start).needs:
            raise InputError(
                f"start must be a method that needs nothing beside a cache; got '{start}'."
            )
        self.start = start

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """See `Method.make_head`; the head that it started from is made first."""
        inner = {n.removeprefix(_START): t for n, t in tensors.items() if n.startswith(_START)}
        own: dict[str, Any] = {n: t for n, t in tensors.items() if not n.startswith(_START)}
        about = params["started_from"]
        start = find_method(about["method"]).make_head(inner, about["params"])
        kind: Any = cls.head
        head: Head = kind(**own, start=start, params=params, method=cls.name)
        return head

    def begin(self, train: TrainingSet, seed: int) -> Head:
        """See `PoolMethod.begin`: the head of the method `start`."""
        return make_method(self.start, self.context, {}).fit(train, seed=seed)

    def fit_beside(self, start: Head, train: TrainingSet) -> Head:
        """See `PoolMethod.fit_beside`."""
        names = train.text.names
        shares, shift = class_shares(self.class_balance, names), torch.zeros(len(names))
        shift = shift.to(self.context.device)
        if shares is not None:
            shift = balancing(start, self.pool, shares)
        p = pool_labels(start, self.pool, len(names), shift)
        tensors = {**self.solve(p, train.text), "shift": shift, "keys": self.pool.unit}
        tensors |= {f"{_START}{name}": tensor for name, tensor in start.tensors().items()}
        about = {"method": start.method, "params": dict(start.params)}
        params = {"start": self.start, "started_from": about, "neighbours": NEIGHBOURS}
        params |= {"pool_images": len(self.pool), "class_balance": self.class_balance}
        return self.make_head(tensors, params)

    @abstractmethod
    def solve(self, p: Tensor, text: ClassText) -> dict[str, Tensor]:
        """The tensors `answers`, `mu` and `variance` from the answers of the start (N, C).

        It may compute in the memory of `p`.
        """


NEIGHBOURS = 3
