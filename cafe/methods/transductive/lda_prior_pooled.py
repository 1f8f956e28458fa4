"""`lda-prior` that also learns from images without labels, and the half of `auto` that does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import ArrayLike

from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_not_negative, check_positive
from cafe.methods.ensemble import EnsembleHead
from cafe.methods.head import Head
from cafe.methods.lda_prior import candidate_heads
from cafe.methods.linear import LinearHead
from cafe.methods.transductive.class_balance import ClassBalance, class_shares, classes_held
from cafe.methods.transductive.pool_method import PoolMethod
from cafe.methods.transductive.pooled_gaussian import PooledGaussian

KAPPA, BETA = 3.0, 0.1
BETA_ALONE = 1.0
"""Without text there is no zero-shot answer beside the Gaussians: theirs counts whole, by Bayes'
rule. With 0.1 it is so unsure of a hundred classes that the half of `auto` changes nothing."""

CAP = 5.0
"""Images a class that a pool counts for at most, on average: a large pool does not drown the shots.

Of 2, 5 and 10 the average over development tasks is the best with 5, and without a cap the worst.
"""

FEW, FEW_WEIGHT = 0.7, 0.1
"""A pool that seems to hold less than this share of the classes may be a small batch or a stream:
there an image counts for a tenth of a shot, since the absent classes would take images that are not
theirs; and for nothing where there are fewer images than classes, and the pool says too little of
each (`benchmarks/results/unlabelled.md`)."""

FEW_WORDS = (
    "the pool may hold few of the classes, so its images count for a tenth of a shot each, or for "
    "nothing if there are fewer than classes"
)

HALF = 0.5
"""What the pooled member weighs in `auto`: it knows no adapter, and an unlucky pool spoils it."""


class LdaPriorPooled(PoolMethod):
    """`lda-prior` fitted by expectation maximisation on the shots and a pool without labels.

    It starts from the answers of `lda-prior` on the pool. A round takes them for soft labels and
    fits `lda-prior` again, on shots and pool together; ten rounds. All of the pool counts for
    `cap` images a class at most, and a single image for no more than a shot; for a tenth of one
    where the pool seems to hold few of the classes, and for nothing if it has fewer images than
    there are classes. The head is linear and answers for any image,
    of the pool or not.

    Parameters
    ----------
    kappa : float
        Images that the text is worth.
    beta : float
        Weight of the Gaussian classifier beside zero-shot.
    cap : float
        Images a class that the pool counts for at most.
    pool : Pool or array
        Raw features without labels. (N, D)
    class_balance : mapping of str to float, "uniform" or None
        How many pool images are of each class, where that is known; it is never assumed.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If there is no pool, or a number is out of bounds.
    """

    name = "lda-prior-pooled"
    summary = "lda-prior that also learns from a pool of images without labels"
    source = "cafe 2026, docs/unlabelled.md; EM, Dempster et al. 1977, JRSS B 39"
    head = LinearHead

    def __init__(
        self,
        kappa: float = KAPPA,
        beta: float = BETA,
        cap: float = CAP,
        *,
        pool: Pool | ArrayLike | None = None,
        class_balance: ClassBalance | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(pool, class_balance, context)
        self.kappa = check_positive("kappa", kappa)
        self.beta = check_not_negative("beta", beta)
        self.cap = check_positive("cap", cap)

    def begin(self, train: TrainingSet, seed: int) -> LinearHead:
        """See `PoolMethod.begin`: `lda-prior` on the shots."""
        own = candidate_heads(train, [(self.kappa, self.beta)])
        return LinearHead(own.weights[0], own.intercept[0])

    def fit_beside(self, start: Head, train: TrainingSet) -> LinearHead:
        """See `PoolMethod.fit_beside`."""
        beta = self.beta if train.text.has_text else BETA_ALONE
        fit = PooledGaussian(train, self.pool, self.kappa, beta)
        seen = fit.take(start)
        classes, held = len(train.text.names), classes_held(seen.counts)
        few = held < FEW * classes
        most = (FEW_WEIGHT if len(self.pool) >= classes else 0.0) if few else 1.0
        weight = min(most, self.cap * classes / len(self.pool))
        shares = class_shares(self.class_balance, train.text.names)
        weights, intercept = fit.run(start, seen, weight, shares)
        params: dict[str, Any] = {"kappa": self.kappa, "beta": beta, "cap": self.cap}
        params |= {"pool_images": len(self.pool), "pool_classes": round(held, 1)}
        params |= {"few_classes": few, "pool_weight": round(weight, 4)}
        params |= {"class_balance": self.class_balance}
        return LinearHead(weights, intercept, params=params, method=self.name)


def add_pooled(head: EnsembleHead, pooled: LinearHead) -> EnsembleHead:
    """An ensemble half of which is a head that learnt from a pool; as it is where that did not."""
    if not pooled.params["pool_weight"]:
        told = {name: pooled.params[name] for name in ("pool_images", "few_classes", "pool_weight")}
        return replace(head, params={**head.params, **told})
    tensors = head.tensors()
    for name, tensor in (("linear", pooled.weights), ("intercept", pooled.intercept)):
        others = [tensors[name]] if name in tensors else []
        tensors[name] = torch.cat([*others, tensor[None]])
    tensors["mixture"] = torch.cat([(1 - HALF) * head.mixture, head.mixture.new_tensor([HALF])])
    about = {"kind": "linear", "name": pooled.method, **pooled.params}
    about |= {"weight": HALF, "held_out_nll": None, "tensors": ["intercept", "linear"]}
    members = [
        {**member, "weight": round((1 - HALF) * member["weight"], 3)}
        for member in head.params["members"]
    ]
    changed: dict[str, Any] = {**tensors, "params": {**head.params, "members": [*members, about]}}
    return replace(head, **changed)
