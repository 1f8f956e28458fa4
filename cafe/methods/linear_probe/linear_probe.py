"""Linear probe: logistic regression on image features, or a cosine probe from the class texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.checks import check_positive
from cafe.methods.head import Head
from cafe.methods.linear import CosineHead, LinearHead, Prototypes, TrainedLinear
from cafe.methods.linear_probe.logistic import logistic_regressions
from cafe.methods.validation import Fold, choose, folds_for

IMAGE_NORM = 10.0
"""Norm of OpenAI CLIP's raw image features for ViT-B/32, roughly. The C that is published for them
does the same on unit features when it is multiplied by the square."""


class LinearProbe(TrainedLinear):
    """A linear classifier on unit image features.

    Its logits are `norm(x) W^T + c`, or `s norm(x) norm(W)^T` where W started from the class texts.

    Parameters
    ----------
    start : {"zero", "zero-shot"}
        "zero" is plain logistic regression by L-BFGS (Radford et al. 2021, section 3.2), which
        knows nothing of the texts. "zero-shot" trains a cosine classifier from the class texts, by
        the engine: ZS-LP of Silva-Rodriguez et al. 2024 (arXiv 2312.12730).
    c : float
        Inverse strength of the L2 penalty for "zero". The example of CLIP's authors has 0.316 on
        raw features; on unit ones that is 0.316 * `IMAGE_NORM` ** 2.
    cs : sequence of float
        Candidates for c under validation, from the most conservative on. CoOp's linear probe
        (arXiv 2109.01134) searches 1e-6 to 1e6 in steps of 100 on raw features; this is the part
        that is not plainly too strong or without effect on unit ones. "zero-shot" has none.
    recipe : Recipe or None
        How to optimise for "zero-shot"; None is that of ZS-LP with AdamW at 1e-4 in the place of
        SGD at 0.1: 300 epochs in batches of 256, on augmented views where the cache has them.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If `start` is neither, or c is not above 0.
    """

    name = "linear-probe"
    summary = "logistic regression, or a cosine probe started from the class texts"
    source = "Radford et al. 2021, arXiv 2103.00020; start: arXiv 2312.12730"
    head = LinearHead
    no_new_classes = "a row of the head is learnt per class from its shots"
    architecture = Prototypes()
    published = Recipe(lr=1e-4, weight_decay=0.0, epochs=300, views=True)

    def __init__(
        self,
        start: Literal["zero", "zero-shot"] = "zero",
        c: float = 0.316 * IMAGE_NORM**2,
        *,
        cs: Sequence[float] = (0.1, 1.0, 10.0, 1e2, 1e3, 1e4),
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        if start not in ("zero", "zero-shot"):
            raise InputError(f"start must be 'zero' or 'zero-shot'; got '{start}'.")
        self.start, self.in_force = start, {"start": start}
        self.c = check_positive("c", c)
        self.cs = tuple(check_positive("c", candidate) for candidate in cs)

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """Logits are cosines where W started from the texts; see `Method.make_head`."""
        kind = CosineHead if params["start"] == "zero-shot" else LinearHead
        return kind(**tensors, params=params, method=cls.name)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job; "zero-shot" trains all of them side by side."""
        if self.start == "zero-shot":
            return super().fit_many(jobs)
        return [self._fit_plain(job) for job in jobs]

    def _fit_plain(self, job: Job) -> Head:
        folds = folds_for(job)
        c = choose(self.cs, self.c, folds, map(self._candidates, folds))
        weights, intercept = _regress(job.train, [c])
        tensors = {"weights": weights[0].float(), "intercept": intercept[0].float()}
        return self.make_head(tensors, {**self.in_force, "c": c})

    def _candidates(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images, all regressions side by side. (G, n, C)"""
        weights, intercept = _regress(fold.train, self.cs, tolerance=1e-5)
        return fold.held_out.unit.double() @ weights.mT + intercept[:, None]


def _regress(
    train: TrainingSet, cs: Sequence[float], tolerance: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Weights (G, C, D) and intercepts (G, C) of one regression per strength."""
    x, y = train.features.unit, train.features.y
    strengths = torch.tensor(cs, dtype=torch.float64, device=x.device)
    return logistic_regressions(x, y, strengths, len(train.text.names), tolerance=tolerance)
