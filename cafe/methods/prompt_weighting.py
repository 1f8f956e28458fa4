"""Prompts of a class weighted by its shots, as TIMO does (Li et al. 2025, arXiv 2412.11375)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText, Features, TrainingSet, class_averages
from cafe.methods.base import BatchedMethod, Job, Method
from cafe.methods.head import Head

SETTING = "prompts_weighting"
"""Name of the setting that asks for it, and of the part of a head's params that says so."""

TIMO = "timo"

GAMMA = 50.0
"""The authors' for nine of their eleven datasets (1 for ImageNet, 100 for flowers)."""


def weigh_prompts(text: ClassText, shots: Features, gamma: float = GAMMA) -> Tensor:
    """`softmax_p(gamma cos(class mean, prompt))`: how much each prompt of a class counts.

    Parameters
    ----------
    text : ClassText
        Several prompts a class; rows of zeros are none.
    shots : Features
        The class mean is that of their unit features.
    gamma : float
        0 weighs all prompts the same.

    Returns
    -------
    Tensor
        Rows that sum to 1. A class without a shot weighs its prompts the same. (C, P)
    """
    prompts = normalize(text.features, dim=-1)  # (C, P, D)
    present = torch.bincount(shots.y, minlength=len(prompts)) > 0  # (C,)
    means = normalize(class_averages(shots.y, len(prompts)) @ shots.unit, dim=-1)  # (C, D)
    scores = gamma * (prompts @ means[:, :, None]).squeeze(-1)  # (C, P)
    scores = torch.where(present[:, None], scores, torch.zeros_like(scores))
    return scores.masked_fill(~prompts.any(dim=-1), -torch.inf).softmax(dim=-1)


@dataclass(frozen=True)
class WeightedText(ClassText):
    """One feature a class, the weighted mean of its prompts; folds weigh them by their own shots.

    Attributes
    ----------
    plain : ClassText or None
        The prompts that it is made of; always there.
    """

    plain: ClassText | None = None

    @classmethod
    def of(cls, text: ClassText, shots: Features) -> WeightedText:
        """The text as some shots weigh it."""
        weights = weigh_prompts(text, shots)[..., None]  # (C, P, 1)
        means = (weights * normalize(text.features, dim=-1)).sum(dim=1, keepdim=True)  # (C, 1, D)
        return cls(means, text.names, text.logit_scale, text.logit_bias, text)

    def for_shots(self, shots: Features) -> ClassText:
        """See `ClassText.for_shots`: held-out images have no say."""
        return self if self.plain is None else WeightedText.of(self.plain, shots)

    def to(self, device: torch.device | str) -> ClassText:
        """The same text on another device."""
        plain = None if self.plain is None else self.plain.to(device)
        return replace(self, features=self.features.to(device), plain=plain)


class PromptsWeighted(BatchedMethod):
    """A method that is fitted on class weights whose prompts the shots weigh."""

    head = Head

    def __init__(self, method: Method) -> None:
        super().__init__(method.context)
        self._method = method
        # its heads are the method's own
        vars(self).update(name=method.name, needs=method.needs)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Weigh by the shots of each job, then fit."""
        texts = [WeightedText.of(job.train.text, job.train.features) for job in jobs]
        weighted = [
            job._replace(train=TrainingSet(job.train.features, text))
            for job, text in zip(jobs, texts, strict=True)
        ]
        said = {SETTING: TIMO, "prompts_gamma": GAMMA}
        heads = self._method.fit_many(weighted)
        return [replace(head, params={**head.params, **said}) for head in heads]


def is_weighted(kind: type[Method], settings: Mapping[str, Any]) -> bool:
    """Whether a method is fitted on weighted prompts: not zero-shot, which sees no shot."""
    takes = kind.name != "zero-shot" and kind.needs != "text tower" and kind.reads_text(settings)
    return takes and settings.get(SETTING) is not None
