"""One head over several encoders of the same images: a mixture of the heads of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from cafe.features.joined import JoinedText, split_columns, take_apart
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.auto import Auto
from cafe.methods.base import Job, Method, Validation
from cafe.methods.catalog import find_method
from cafe.methods.ensemble import join_members, weigh_members
from cafe.methods.head import Head, predict
from cafe.methods.stacking import log_likelihood, stack, weighing_folds
from cafe.methods.zero_shot import ZeroShot

ENCODERS = "encoders"
"""The part of a head's params that says which encoders it takes."""


@dataclass(frozen=True, eq=False)
class JoinedHead(Head):
    """`log sum_e a_e softmax(head_e(x_e))`, `x_e` the columns of an encoder in joined features.

    In its params "encoders" says of each its name, width, weight, and the method and params of its
    head; an encoder without a head ("weight" 0) is one whose classes have no text.
    """

    heads: tuple[Head | None, ...]
    mixture: Tensor  # the weights a, (E,)

    @property
    def widths(self) -> list[int]:
        """Feature width of each encoder."""
        return [int(encoder["width"]) for encoder in self.params[ENCODERS]]

    def logits(self, x: Tensor) -> Tensor:
        """Log-probabilities of the mixture; see `Head.logits`. (N, C)"""
        columns = torch.split(x, self.widths, dim=-1)
        terms = [
            weight.log() + torch.log_softmax(head.graph_logits(part), dim=-1)
            for weight, head, part in zip(self.mixture, self.heads, columns, strict=True)
            if head is not None
        ]
        mixed: Tensor = terms[0]
        for term in terms[1:]:
            mixed = torch.logaddexp(mixed, term)
        return mixed

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all heads, each name behind the number of its encoder."""
        own = {
            f"{place}.{name}": tensor
            for place, head in enumerate(self.heads)
            if head is not None
            for name, tensor in head.tensors().items()
        }
        return {"mixture": self.mixture, **own}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any], method: str
    ) -> JoinedHead:
        """A head as a file gives it back."""
        heads: list[Head | None] = []
        for place, encoder in enumerate(params[ENCODERS]):
            start = f"{place}."
            own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
            kind = find_method(encoder["method"])
            heads.append(kind.make_head(own, encoder["params"]) if own else None)
        return cls(tuple(heads), tensors["mixture"], params=params, method=method)


def fit_heads(method: Method, jobs: Sequence[Job]) -> list[Head]:
    """One head per job; over joined features a mixture of the method's heads for each encoder.

    The weights are those of stacking: what the folds of the shots hold out is likeliest under
    them. Of `auto` the members of all encoders are weighed together, else one head of each encoder.

    Parameters
    ----------
    method : Method
    jobs : sequence of Job
        All over the same encoders.
    """
    if not jobs or not isinstance(jobs[0].train.text, JoinedText):
        return method.fit_many(jobs)
    parts = [list(some) for some in zip(*map(_parts, jobs), strict=True)]  # encoders x jobs
    if isinstance(method, Auto):
        return _mix_members(method, jobs, parts)
    return _mix_heads(method, jobs, parts)


def _parts(job: Job) -> list[Job]:
    """A job as one for each encoder."""
    trains, held_out = take_apart(job.train), job.validation.features
    validations = [job.validation] * len(trains)
    if held_out is not None:
        some = split_columns(held_out, [t.features.x.shape[1] for t in trains])
        validations = [Validation(job.validation.protocol, part) for part in some]
    return [Job(t, v, job.seed) for t, v in zip(trains, validations, strict=True)]


def _mix_members(method: Auto, jobs: Sequence[Job], parts: Sequence[Sequence[Job]]) -> list[Head]:
    heads: list[Head] = []
    by_job = zip(*(method.candidates(some) for some in parts), strict=True)
    for job, candidates in zip(jobs, by_job, strict=True):
        members = [member for each in candidates for member in each.members]
        mixture = weigh_members(members, candidates[0].folds)  # the same folds: by labels and seed
        own = torch.split(mixture, [len(each.members) for each in candidates])
        joined = [join_members(each, w) for each, w in zip(candidates, own, strict=True)]
        joined = method.fit_columns(joined, take_apart(job.train))
        heads.append(_join(method, job.train, joined, torch.stack([w.sum() for w in own])))
    return heads


def _mix_heads(method: Method, jobs: Sequence[Job], parts: Sequence[Sequence[Job]]) -> list[Head]:
    skipped = [
        isinstance(method, ZeroShot) and not some[0].train.text.tells_apart for some in parts
    ]
    is_blind = isinstance(method, ZeroShot)  # it looks at no shot, to weigh encoders neither
    folds = [[] if is_blind else weighing_folds(job.train, job.seed) for job in jobs]
    fitted, judged = [], []
    for some, skip, place in zip(parts, skipped, range(len(parts)), strict=True):
        on_folds = [
            (take_apart(fold.train)[place], fold.held_out, job)
            for job, own in zip(some, folds, strict=True)
            for fold in own
        ]
        more = [Job(train, job.validation, job.seed) for train, _, job in on_folds]
        fits = iter([] if skip else method.fit_many([*some, *more]))
        fitted.append([next(fits, None) for _ in some])
        text = jobs[0].train.text
        ours = [_judge(next(fits, None), held_out, place, text) for _, held_out, _ in on_folds]
        judged.append(iter(ours))
    heads: list[Head] = []
    for number, (job, own) in enumerate(zip(jobs, folds, strict=True)):
        rows = [torch.cat([_NONE, *(next(each) for _ in own)]) for each in judged]
        y = torch.cat([_NONE.long(), *(fold.held_out.y.cpu() for fold in own)])
        prior = torch.tensor([0.0 if skip else 1.0 for skip in skipped])
        kept = prior > 0
        mixture = torch.zeros(len(parts), dtype=torch.float64)
        mixture[kept] = stack(torch.stack(rows)[kept], y, prior[kept])
        heads.append(_join(method, job.train, [some[number] for some in fitted], mixture))
    return heads


_NONE = torch.zeros(0, dtype=torch.float64)


def _judge(head: Head | None, held_out: Features, place: int, text: ClassText) -> Tensor:
    """Log-likelihood of a fold's held-out images under an encoder's head. (n,)"""
    if head is None:
        return torch.zeros(len(held_out), dtype=torch.float64)
    widths = [part.features.shape[-1] for part in text.each]
    part = split_columns(held_out, widths)[place]
    return log_likelihood(predict(head, part), part.y).cpu()


def _join(
    method: Method, train: TrainingSet, heads: Sequence[Head | None], mixture: Tensor
) -> JoinedHead:
    text = cast("JoinedText", train.text)
    about = [
        {
            "name": name,
            "width": part.features.shape[-1],
            "weight": round(weight, 3),
            "method": method.name,
            "params": dict(head.params) if head else {},
        }
        for name, part, head, weight in zip(
            text.encoders, text.parts, heads, mixture.tolist(), strict=True
        )
    ]
    weights = mixture.float().to(train.features.x.device)
    return JoinedHead(tuple(heads), weights, params={ENCODERS: about}, method=method.name)
