"""Self-training: features without labels that a head is surest of join its shots.

After LP-OVOD (Pham et al. 2023, arXiv 2310.17109), which takes the proposals nearest to a class as
its pseudo-labels. Here any head says which they are, and held-out shots say whether it helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.errors import InputError
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import NO_VALIDATION, BatchedMethod, Job, Method, Validation
from cafe.methods.head import Head, predict, predict_in_blocks
from cafe.methods.validation import Fold, folds_for, pick_best

SETTING = "self_train"
"""Name of the setting that asks for it; any method takes it."""

PARAM = "self_training"
"""Name of the part of a head's params that says what happened."""

_FOLDS = Validation("cv")

_ROWS = 1 << 16  # of the pool at a time


@dataclass(frozen=True, eq=False)
class SelfTraining:
    """What features without labels may do for a head.

    Attributes
    ----------
    pool : Tensor
        Raw features without labels. (N, D)
    most : int
        K: how many of each class become pseudo-shots, at most.
    rounds : int
        How often pseudo-shots are chosen anew, by the head of the round before.
    methods : tuple of str
        The methods that do it; others stay as they are.
    """

    pool: Tensor
    most: int
    rounds: int = 1
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.pool):
            raise InputError("self-training has no proposal without a label to choose from.")
        for name, value in (("self_train", self.most), ("rounds", self.rounds)):
            if value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")

    @property
    def learning(self) -> str:
        """What a result is whose heads saw the pool, as `Pool.learning` says it."""
        return (
            f"semi-supervised: sees {len(self.pool):,} proposals without labels, none of them of "
            "the test split"
        )


class SelfTrained(BatchedMethod):
    """A method whose heads choose pseudo-shots and are fitted again with them.

    Heads of 0, 1, ... rounds are candidates, from the most conservative on; the best on held-out
    shots is kept (`pick_best`). Where a protocol has validation images, these judge; else folds of
    the shots do, each judged by heads that never saw it. One shot leaves nothing to hold out, and
    nothing is kept.

    Parameters
    ----------
    method : Method
    training : SelfTraining

    Raises
    ------
    InputError
        If the method takes more than features: the pool has no spatial maps.
    """

    head = Head

    def __init__(self, method: Method, training: SelfTraining) -> None:
        super().__init__(method.context)
        if method.needs in ("spatial features", "pre-projection features"):
            raise InputError(f"{method.name} needs {method.needs}; self-training has none.")
        self._method, self._training = method, training
        vars(self)["name"] = method.name  # its heads are the method's own

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit every job and its folds, round by round, all side by side."""
        folds = [_folds(job) for job in jobs]
        wanted, rounds = _with_folds(jobs, folds), []
        heads = self._method.fit_many(wanted)
        taken: list[list[int]] = []
        for _ in range(self._training.rounds):
            rounds.append(heads)
            chosen = [self._pseudo_shots(h, j.train) for h, j in zip(heads, wanted, strict=True)]
            taken.append([count for _, count in chosen][: len(jobs)])
            trains = [self._join(j.train, new) for j, (new, _) in zip(wanted, chosen, strict=True)]
            heads = self._method.fit_many(
                [job._replace(train=train) for job, train in zip(wanted, trains, strict=True)]
            )
        rounds.append(heads)
        return self._choose(jobs, folds, rounds, taken)

    def _choose(
        self,
        jobs: Sequence[Job],
        folds: Sequence[Sequence[Fold]],
        rounds: Sequence[Sequence[Head]],
        taken: Sequence[Sequence[int]],
    ) -> list[Head]:
        kept, place = [], len(jobs)
        for number, (job, own) in enumerate(zip(jobs, folds, strict=True)):
            is_apart = bool(own) and own[0].train is not job.train
            places = range(place, place + len(own)) if is_apart else [number] * len(own)
            place += len(own) if is_apart else 0
            scores = [_score([heads[p] for p in places], own) for heads in rounds] if own else []
            best = pick_best(*zip(*scores, strict=True)) if scores else 0
            about = {
                "candidates": len(self._training.pool),
                "most": self._training.most,
                "rounds": len(rounds) - 1,
                "kept": best,
                "taken": taken[max(best - 1, 0)][number],
                "held_out": sum(len(fold.held_out) for fold in own),
                "accuracy": [round(100 * accuracy, 2) for accuracy, _ in scores],
                "loss": [round(loss, 4) for _, loss in scores],
            }
            head = rounds[best][number]
            kept.append(replace(head, params={**head.params, PARAM: about}))
        return kept

    def _pseudo_shots(self, head: Head, train: TrainingSet) -> tuple[Features, int]:
        """The pseudo-shots that a head chooses, and how many of the pool they are made of."""
        x = self._training.pool
        best = [_best(head, x[i : i + _ROWS].to(_device(train))) for i in range(0, len(x), _ROWS)]
        scores, labels = (torch.cat(parts) for parts in zip(*best, strict=True))
        counts = torch.bincount(train.features.y, minlength=len(train.text.names)).tolist()
        made, y, taken = [], [], 0
        for label, shots in enumerate(counts):
            rows = (labels == label).nonzero().squeeze(1)
            order = scores[rows].topk(min(self._training.most, len(rows))).indices
            chosen = rows[order]
            if len(chosen) and shots:
                made.append(weighted_means(x[chosen], scores[chosen], min(shots, len(chosen))))
                y += [label] * len(made[-1])
                taken += len(chosen)
        new = torch.cat(made) if made else x[:0].float()
        return Features(new, torch.tensor(y, dtype=torch.int64)), taken

    def _join(self, train: TrainingSet, new: Features) -> TrainingSet:
        old, new = train.features, new.to(_device(train))
        views = old.views
        if views is not None:  # a pseudo-shot is its only view
            views = torch.cat([views.float(), new.x[:, None].expand(-1, views.shape[1], -1)])
        x = torch.cat([old.x.float(), new.x])
        groups = old.groups
        if groups is not None:  # proposals without a label lie on images without shots
            groups = np.append(groups, groups.max() + 1 + np.arange(len(new)))
        y = torch.cat([old.y, new.y])
        return TrainingSet(Features(x, y, views, groups=groups), train.text)


def weighted_means(x: Tensor, weights: Tensor, count: int) -> Tensor:
    """So many weighted means of features: how weighted rows join shots that all count the same.

    No method takes weights. A mean of several rows counts as one shot, and each row in it as much
    as its weight. So the pseudo-shots of a class never outweigh its shots.

    Parameters
    ----------
    x : Tensor
        Raw features, the best first; they are dealt out in turn. (n, D)
    weights : Tensor
        (n,)
    count : int
        M, from 1 to n.

    Returns
    -------
    Tensor
        Of the mean norm of their parts, in the direction of the mean of unit features. (M, D)
    """
    group = torch.arange(len(x)) % count  # (n,)
    w = weights.to(x.device, torch.float32)
    shares = torch.zeros(count, len(x), device=x.device)
    shares[group, torch.arange(len(x))] = w.clamp_min(torch.finfo(torch.float32).tiny)
    shares /= shares.sum(dim=1, keepdim=True)  # (M, n)
    norms = shares @ torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)  # (M, 1)
    mean: Tensor = normalize(shares @ normalize(x.float(), dim=-1), dim=-1)
    scaled: Tensor = mean * norms
    return scaled


def _folds(job: Job) -> list[Fold]:
    """Where rounds are judged: the job's own folds, or folds of its shots whatever the protocol."""
    return folds_for(job) or folds_for(job._replace(validation=_FOLDS))


def _with_folds(jobs: Sequence[Job], folds: Sequence[Sequence[Fold]]) -> list[Job]:
    """The jobs, and then one for each fold that is not fitted on all shots."""
    return [
        *jobs,
        *(
            Job(fold.train, _unseen(job.validation), job.seed)
            for job, own in zip(jobs, folds, strict=True)
            for fold in own
            if fold.train is not job.train
        ),
    ]


def _unseen(validation: Validation) -> Validation:
    """The protocol of a fold's fit: its choices are made inside its own shots, or not at all."""
    return validation if validation.features is None else NO_VALIDATION


def _score(heads: Sequence[Head], folds: Sequence[Fold]) -> tuple[float, float]:
    """Accuracy (0 to 1) and loss (nats) on the held-out images of all folds."""
    pairs = [(predict(h, f.held_out), f.held_out.y) for h, f in zip(heads, folds, strict=True)]
    z, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return (z.argmax(dim=1) == y).double().mean().item(), cross_entropy(z.double(), y).item()


def _best(head: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of the likeliest class of each row, and that class; on the CPU. (n,) each"""
    best: Any = torch.softmax(predict_in_blocks(head, x), dim=-1).max(dim=-1)
    return best.values.cpu(), best.indices.cpu()


def _device(train: TrainingSet) -> torch.device:
    return train.features.x.device
