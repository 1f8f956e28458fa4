"""Tip-Adapter (Zhang et al., ECCV 2022, arXiv 2111.03930): the shots as a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize, one_hot

from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Job, Method, Validation
from cafe.methods.checks import check_not_negative
from cafe.methods.head import Head, scale_params
from cafe.methods.tip_adapter.search import Affinities, CandidateGrid, search
from cafe.methods.validation import Fold, folds_for


def cache_keys(features: Features) -> Tensor:
    """Unit keys of the shots: the mean over augmented views, where there are any.

    The authors average raw features of ten random views; views are normalised first here, so that
    each counts the same.

    Parameters
    ----------
    features : Features
        The shots.

    Returns
    -------
    Tensor
        One key a shot. (M, D)
    """
    if features.views is None:
        return features.unit
    return normalize(normalize(features.views, dim=-1).mean(dim=1), dim=-1)


@dataclass(frozen=True, eq=False)
class TipHead(Head):
    """`s norm(x) w^T + alpha exp(-beta (1 - norm(x) K^T)) V`, plus the encoder's logit bias.

    Equations 6 and 7, with V the one-hot labels of the keys K. Its params hold "alpha", "beta",
    "logit_scale" and "logit_bias".
    """

    keys: Tensor  # K, (M, D), unit rows
    labels: Tensor  # their class indices, (M,)
    weights: Tensor  # w, (C, D)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        x = normalize(x, dim=-1)
        alpha: float = self.params["alpha"]
        beta: float = self.params["beta"]
        values = one_hot(self.labels, len(self.weights)).to(self.weights.dtype)  # V, (M, C)
        affinity = (-beta * (1 - x @ self.keys.mT)).exp()  # (N, M)
        return self.scale_cosines(x @ self.weights.mT) + alpha * affinity @ values


def affinities(keys: Tensor, fold: Fold) -> Affinities:
    """What the search needs of the keys of a fold's shots and of its held-out images."""
    text, x = fold.train.text, fold.held_out.unit
    zero_shot = text.logit_scale * x @ text.weights.mT + text.logit_bias  # (n, C)
    values = one_hot(fold.train.features.y, len(text.names)).to(x.dtype)  # (M, C)
    return Affinities(x @ keys.mT, values, zero_shot, fold.held_out.y)


class TipAdapter(Method):
    """Training-free Tip-Adapter: zero-shot plus a cache of the shots; `TipHead` has the formula.

    Parameters
    ----------
    alpha, beta : float
        Weight of the cache and sharpness of its affinities where nothing is validated; 1 and 5.5
        are the paper's (section 4.1).
    grid : CandidateGrid
        Candidates under validation, 200 betas by 20 alphas as in the authors' code.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If alpha or beta is negative.
    """

    name = "tip-adapter"
    summary = "zero-shot plus a key-value cache of the training features"
    source = "Zhang et al. 2022, arXiv 2111.03930"
    head = TipHead
    no_new_classes = "its shots speak for base classes only; new ones get zero-shot's answer"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 5.5,
        *,
        grid: CandidateGrid | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.alpha = check_not_negative("alpha", alpha)
        self.beta = check_not_negative("beta", beta)
        self.grid = grid or CandidateGrid()

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Keep the shots; under validation all 4,000 candidates are judged as tensors."""
        folds = folds_for(Job(train, validation, seed))
        caches = [affinities(cache_keys(fold.train.features), fold) for fold in folds]
        alpha, beta = search(caches, self.grid) if caches else (self.alpha, self.beta)
        params = {"alpha": alpha, "beta": beta, **scale_params(train.text)}
        return self.make_head(tip_tensors(cache_keys(train.features), train), params)


def tip_tensors(keys: Tensor, train: TrainingSet) -> dict[str, Tensor]:
    """The tensors of a head whose keys are as given."""
    return {"keys": keys, "labels": train.features.y, "weights": train.text.weights}
