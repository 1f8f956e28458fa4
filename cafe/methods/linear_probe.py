"""Linear probe: logistic regression on image features, or a cosine probe from the class texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.methods.base import Context, Job
from cafe.methods.checks import check_positive
from cafe.methods.head import Head
from cafe.methods.linear import CosineHead, LinearHead, Prototypes, SigmoidHead, TrainedLinear
from cafe.methods.logistic_regression import Loss, logistic_regressions
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
    loss : {"softmax", "sigmoid"}
        "sigmoid" is for "zero": a regression of each class against the rest, so that classes may
        overlap, as of LP-OVOD (Pham et al. 2023, arXiv 2310.17109). Rows of the same features
        share their labels.
    recipe : Recipe or None
        How to optimise for "zero-shot"; None is that of ZS-LP with AdamW at 1e-4 in the place of
        SGD at 0.1: 300 epochs in batches of 256, on augmented views where the cache has them.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If `start` or `loss` is neither, c is not above 0, or both "zero-shot" and "sigmoid" are
        asked for: a cosine has no threshold above which a class is there.
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
        loss: Loss = "softmax",
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        if start not in ("zero", "zero-shot"):
            raise InputError(f"start must be 'zero' or 'zero-shot'; got '{start}'.")
        if loss not in ("softmax", "sigmoid"):
            raise InputError(f"loss must be 'softmax' or 'sigmoid'; got '{loss}'.")
        if (start, loss) == ("zero-shot", "sigmoid"):
            raise InputError("loss 'sigmoid' is for start 'zero'; leave one of them out.")
        self.start, self.loss, self.in_force = start, loss, {"start": start}
        if loss != "softmax":
            self.in_force = {**self.in_force, "loss": loss}
        self.c = check_positive("c", c)
        self.cs = tuple(check_positive("c", candidate) for candidate in cs)

    @classmethod
    def reads_text(cls, settings: Mapping[str, Any]) -> bool:
        """Plain logistic regression does not; see `Method.reads_text`."""
        return settings.get("start") == "zero-shot"

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """Logits are cosines where W started from the texts; see `Method.make_head`."""
        plain = SigmoidHead if params.get("loss") == "sigmoid" else LinearHead
        kind = CosineHead if params["start"] == "zero-shot" else plain
        return kind(**tensors, params=params, method=cls.name)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job; "zero-shot" trains all of them side by side."""
        if self.start == "zero-shot":
            return super().fit_many(jobs)
        return [self._fit_plain(job) for job in jobs]

    def _fit_plain(self, job: Job) -> Head:
        folds = folds_for(job)
        c = choose(self.cs, self.c, folds, map(self._candidates, folds))
        weights, intercept = logistic_regressions(job.train, [c], self.loss)
        tensors = {"weights": weights[0].float(), "intercept": intercept[0].float()}
        return self.make_head(tensors, {**self.in_force, "c": c})

    def _candidates(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images, all regressions side by side. (G, n, C)"""
        weights, intercept = logistic_regressions(fold.train, self.cs, self.loss)
        return fold.held_out.unit.double() @ weights.mT + intercept[:, None]
