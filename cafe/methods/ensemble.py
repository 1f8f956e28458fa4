"""An ensemble: one head that answers with the weighted mean of its members' probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from cafe.devices import torch_threads
from cafe.features.tensors import TrainingSet
from cafe.methods.clip_adapter.head import AdapterHead
from cafe.methods.head import Head
from cafe.methods.linear import LinearHead
from cafe.methods.stacking import stack
from cafe.methods.validation import Fold

NEGLIGIBLE = 0.01
"""Members of less weight are left out of the head, but for the best single adapter."""


class Member(NamedTuple):
    """A candidate for an ensemble.

    Attributes
    ----------
    params : dict
        What it is, as JSON values: "kind" ("zero-shot", "adapter" or "linear") and its own
        hyper-parameters.
    tensors : dict of str to Tensor
        As its head has them, but for the zero-shot class weights; none for zero-shot.
    log_likelihoods : sequence of Tensor
        For each fold those of its held-out images, by a head that was fitted on the fold. (n,)
    prior : float
        Imaginary images for which it alone is likely; see `cafe.methods.stacking.stack`.
    """

    params: dict[str, Any]
    tensors: dict[str, Tensor]
    log_likelihoods: Sequence[Tensor]
    prior: float = 1.0


@dataclass(frozen=True, eq=False)
class EnsembleHead(Head):
    """`log sum_m a_m softmax(z_m)`: logits whose softmax is the mean of the members' answers.

    It is a mean of probabilities, which keeps the members' doubt where they disagree. In a mean of
    logits one member that is wrong and very sure overrules the others.

    The tensors of members are joined by their names, those of all adapters in one and those of all
    linear heads in one. In its params "members" says of each its kind, weight and mean negative
    log-likelihood on held-out images.
    """

    mixture: Tensor  # the weights a, (M,)
    weights: Tensor  # zero-shot w, (C, D)
    down: Tensor | None = None  # (A, H, D)
    up: Tensor | None = None  # (A, H, D)
    text_down: Tensor | None = None  # (A, H, D)
    text_up: Tensor | None = None  # (A, H, D)
    linear: Tensor | None = None  # (L, C, D)
    intercept: Tensor | None = None  # (L, C)

    @cached_property
    def heads(self) -> list[Head]:
        """The members in the order of `params["members"]`, each a head in its own right."""
        rows = {name: iter(stacked) for name, stacked in self.tensors().items()}
        heads: list[Head] = []
        for member in self.params["members"]:
            own = {name: next(rows[name]) for name in member["tensors"]}
            if member["kind"] == "linear":
                heads.append(LinearHead(own["linear"], own["intercept"], params=member))
            else:
                heads.append(self._adapter(member, own))
        return heads

    def _adapter(self, member: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterHead:
        """A member adapter as if it had been fitted alone."""
        shared = {name: value for name, value in self.params.items() if name != "members"}
        ratios = {name: value for name, value in member.items() if name.endswith("ratio")}
        method: str = self.params["adapter"]
        params = {**shared, **ratios, "method": method}
        return AdapterHead(self.weights, **tensors, params=params, method=method)

    def logits(self, x: Tensor) -> Tensor:
        """Log-probabilities of the mixture; see `Head.logits`. (N, C)"""
        weights = self.mixture.log()  # (M,)
        terms = (
            weight + torch.log_softmax(head.logits(x), dim=-1)
            for weight, head in zip(weights, self.heads, strict=True)
        )
        mixed: Tensor = next(terms)
        for term in terms:  # one at a time: (M, N, C) may not fit
            mixed = torch.logaddexp(mixed, term)
        return mixed

    def best_single(self) -> AdapterHead:
        """The member adapter whose ratio is nearest to the mean ratio of the mixture.

        One adapter of one ratio, to export or for a small device. It is better than the member that
        makes held-out images likeliest.
        """
        members = self.params["members"]
        chosen = _nearest(members, self.params["best_ratio"])
        return cast("AdapterHead", self.heads[chosen])


class Candidates(NamedTuple):
    """The candidates for one ensemble.

    Attributes
    ----------
    members : sequence of Member
        At least one; of a cache with text one of them is an adapter.
    folds : sequence of Fold
        Where they were judged.
    train : TrainingSet
        What they were fitted on.
    params : mapping
        "method", "adapter" (the method of the member adapters) and what all adapters share.
    """

    members: Sequence[Member]
    folds: Sequence[Fold]
    train: TrainingSet
    params: Mapping[str, Any]


def make_ensemble(
    members: Sequence[Member], folds: Sequence[Fold], train: TrainingSet, params: Mapping[str, Any]
) -> EnsembleHead:
    """Weigh members and join those that matter; see `Candidates` for the arguments.

    Returns
    -------
    EnsembleHead
        Members of less than `NEGLIGIBLE` weight are left out.
    """
    candidates = Candidates(members, folds, train, params)
    return join_members(candidates, weigh_members(members, folds))


@torch_threads(1)  # hundreds of small steps: two threads would wait for each other in each
def weigh_members(members: Sequence[Member], folds: Sequence[Fold]) -> Tensor:
    """Weights by how likely members make what the folds hold out; see `stack`. (M,) float64"""
    log_likelihoods = torch.stack([_judged(member) for member in members])  # (M, J)
    prior = log_likelihoods.new_tensor([member.prior for member in members])  # (M,)
    none = torch.zeros(0, dtype=torch.long)
    y = torch.cat([none, *(fold.held_out.y.to(none) for fold in folds)])  # (J,)
    return stack(log_likelihoods, y.to(prior.device), prior)


def _judged(member: Member) -> Tensor:
    """Log-likelihoods of the images of all folds. (J,) float64"""
    some = member.log_likelihoods
    return torch.cat(list(some)) if some else torch.zeros(0, dtype=torch.float64)


@torch_threads(1)
def join_members(candidates: Candidates, mixture: Tensor) -> EnsembleHead:
    """One head of the members that matter; `mixture` are the weights of all. (M,)"""
    members, folds, train, params = candidates
    described = [member.params for member in members]
    best = mixture.argmax().item()
    if any(member["kind"] == "adapter" for member in described):
        best_ratio = _mean_ratio(described, mixture.tolist())
        best = _nearest(described, best_ratio)
        params = {**params, "best_ratio": round(best_ratio, 3)}
    share = float(mixture.sum())  # below 1 where members of other caches have the rest
    kept = [i for i, w in enumerate(mixture.tolist()) if w >= NEGLIGIBLE * share or i == best]
    mixture = mixture[kept] / mixture[kept].sum()
    about = [
        {
            **members[i].params,
            "weight": round(weight, 3),
            "held_out_nll": round(float(-_judged(members[i]).mean()), 4) if folds else None,
            "tensors": sorted(members[i].tensors),
        }
        for i, weight in zip(kept, mixture.tolist(), strict=True)
    ]
    names = sorted({name for i in kept for name in members[i].tensors})
    joined = [members[i].tensors for i in kept]
    stacked = {n: torch.stack([t[n] for t in joined if n in t]) for n in names}
    mixture = mixture.float().to(train.features.x.device)
    tensors = {**stacked, "weights": train.text.weights, "mixture": mixture}
    return EnsembleHead(**tensors, params={**params, "members": about}, method=params["method"])


def _ratio(member: Mapping[str, Any]) -> float:
    """The ratio of an adapter; those of two branches are equal."""
    return next(float(value) for name, value in member.items() if name.endswith("ratio"))


def _mean_ratio(members: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> float:
    """Mean ratio of the adapters and zero-shot, as they are weighted in the mixture."""
    pairs = [(_ratio(m), w) for m, w in zip(members, weights, strict=True) if m["kind"] != "linear"]
    return sum(ratio * w for ratio, w in pairs) / sum(w for _, w in pairs)


def _nearest(members: Sequence[Mapping[str, Any]], ratio: float) -> int:
    """Place of the adapter whose ratio is the nearest by factor."""
    adapters = [i for i, member in enumerate(members) if member["kind"] == "adapter"]
    return min(adapters, key=lambda i: abs(math.log(_ratio(members[i]) / max(ratio, 1e-3))))
