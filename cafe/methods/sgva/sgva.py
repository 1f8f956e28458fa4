"""SgVA-CLIP (Peng et al. 2022, arXiv 2211.16191): adapted features against image prototypes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Recipe, Run, Trained
from cafe.errors import InputError, one_line
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job, training_params
from cafe.methods.checks import bottleneck_word, check_positive, check_share, parse_bottleneck
from cafe.methods.clip_adapter.architecture import adapt
from cafe.methods.head import Head, scale_params
from cafe.methods.sgva.architecture import SgvaArchitecture
from cafe.methods.tensor_file import open_tensors
from cafe.methods.validation import Fold, choose, folds_for, train_with_folds

HIDDEN = 2
"""H over D: the authors' `_dim_x2`."""

PUBLISHED = Recipe(lr=1e-3, epochs=100, batch_size=4096, views=True)
"""The authors take SGD with momentum for 100 epochs, a rate of 5e-4 to 4e-2 for each dataset and
shot count, and episodes of 50 classes with all their shots. AdamW needs no such table; and as every
step makes all prototypes anew, steps are few and large."""

ALPHAS = {1: 0.05, 2: 0.075, 4: 0.1, 8: 0.22, 16: 0.27}
"""Images per class, and the weight of their prototypes: the authors' for ImageNet, their only fixed
ones. Elsewhere they search on validation images."""


@dataclass(frozen=True, eq=False)
class SgvaHead(Head):
    """`s (a f P^T + (1 - a) norm(x) w^T)` with `f = norm(m A(x) + (1 - m) norm(x))`.

    Its params hold a as "alpha", m as "learned_mix", "logit_scale" and "logit_bias".
    """

    down: Tensor  # (H, D)
    up: Tensor  # (H, D)
    prototypes: Tensor  # P, (C, D)
    weights: Tensor  # w, (C, D)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        x = normalize(x, dim=-1)
        alpha: float = self.params["alpha"]
        by_image = self.adapted(x) @ self.prototypes.mT  # (N, C)
        return self.scale_cosines(alpha * by_image + (1 - alpha) * x @ self.weights.mT)

    def adapted(self, x: Tensor) -> Tensor:
        """See `Head.adapted`. (N, D)"""
        mix: float = self.params["learned_mix"]
        return adapted_features(normalize(x, dim=-1), self.down, self.up, mix)


def adapted_features(x: Tensor, down: Tensor, up: Tensor, mix: float) -> Tensor:
    """`norm(m A(x) + (1 - m) x)` of unit features. (N, D)"""
    adapted = adapt(x, down, up, final_relu=False)  # (N, D)
    return normalize(mix * adapted + (1 - mix) * x, dim=-1)


class Sgva(BatchedMethod):
    """An adapter trained on image prototypes and guided by the text; the score weighs both.

    The prompts are the cache's, or words that `coop` learned before. The authors train such words
    at the same time, by `coop`'s loss on plain features, which does not move the adapter.

    Parameters
    ----------
    alpha : float or None
        Weight of the prototypes in the score where nothing is validated, from 0 (zero-shot) to 1;
        None takes that of `ALPHAS` for the images of the largest class.
    alphas : sequence of float
        Candidates under validation, from the most conservative on; the authors draw ten at random.
    mix : float
        Start of the trained weight of the adapter in the features; 0.5 is the authors'.
    temperature : float
        Of the distillation; 5 is the authors' default.
    words : str or None
        The file of a head of `coop` or `cpl` on these classes, whose texts stand for the cache's.
    bottleneck : str, int or None
        H, as for `ClipAdapter`; None is the paper's 2 D, no bottleneck at all.
    recipe : Recipe or None
        How to optimise; None is `PUBLISHED`.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If a weight is outside [0, 1], the temperature is not above 0, or the bottleneck is neither
        a width nor a part of D.
    """

    name = "sgva"
    summary = "an adapter trained on image prototypes and guided by the text; both in the score"
    source = "Peng et al. 2022, arXiv 2211.16191"
    head = SgvaHead

    def __init__(
        self,
        alpha: float | None = None,
        *,
        alphas: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        mix: float = 0.5,
        temperature: float = 5.0,
        words: str | None = None,
        bottleneck: str | int | None = None,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.alpha = None if alpha is None else check_share("alpha", alpha)
        self.alphas = tuple(check_share("alpha", candidate) for candidate in alphas)
        self.mix = check_share("mix", mix)
        self.temperature = check_positive("temperature", temperature)
        self.words, self.bottleneck = words, bottleneck
        self.recipe = recipe or PUBLISHED
        if bottleneck is not None:
            bottleneck_word(bottleneck)  # a bad word is refused before features are read

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Train all jobs and all their folds side by side, then choose a weight for each job."""
        if self.words is not None:
            texts = [learned_text(self.words, job.train.text) for job in jobs]
            trains = [replace(j.train, text=text) for j, text in zip(jobs, texts, strict=True)]
            jobs = [job._replace(train=train) for job, train in zip(jobs, trains, strict=True)]
        fitted = train_with_folds(self._runs, jobs, list(map(folds_for, jobs)), self.context)
        return [
            self._chosen(self._head(trained, job.train), on_folds)
            for job, ((trained,), on_folds) in zip(jobs, fitted, strict=True)
        ]

    def _runs(self, train_set: TrainingSet, data: int, seed: int) -> list[Run]:
        width = train_set.text.features.shape[-1]
        shots = len(train_set.features)
        wanted = HIDDEN * width if self.bottleneck is None else self.bottleneck
        hidden = parse_bottleneck(wanted, width)
        architecture = SgvaArchitecture(hidden, shots, self.temperature, self.mix)
        most = int(train_set.features.y.bincount().max())
        alpha = ALPHAS[max(k for k in ALPHAS if k <= most)] if self.alpha is None else self.alpha
        return [Run(architecture, data, seed, self.recipe, {"alpha": alpha})]

    def _head(self, trained: Trained, of: TrainingSet) -> SgvaHead:
        down, up = trained.tensors["down"], trained.tensors["up"]
        mix = float(trained.tensors["mix"])
        shots = adapted_features(of.features.unit, down, up, mix)  # (N, D)
        params = {
            **({} if self.words is None else {"words": self.words}),
            "alpha": trained.run.scalars["alpha"],
            "mix": self.mix,
            "learned_mix": mix,
            "bottleneck": len(down),
            "temperature": self.temperature,
            **training_params(trained),
            **scale_params(of.text),
        }
        prototypes, weights = of.averages @ shots, of.text.weights  # (C, D) each
        return SgvaHead(down, up, prototypes, weights, params=params, method=self.name)

    def _chosen(self, head: SgvaHead, on_folds: Sequence[tuple[Fold, Sequence[Trained]]]) -> Head:
        """The head with the best candidate of alpha by heads that were trained on each fold."""
        folds = [fold for fold, _ in on_folds]
        judges = ((self._head(run, fold.train), fold.held_out.x) for fold, (run,) in on_folds)
        logits = (
            torch.stack([_with(judge, alpha).logits(x) for alpha in self.alphas])
            for judge, x in judges
        )  # each (G, n, C)
        return _with(head, choose(self.alphas, head.params["alpha"], folds, logits))


def _with(head: SgvaHead, alpha: float) -> SgvaHead:
    return replace(head, params={**head.params, "alpha": alpha})


def learned_text(file: Path | str, text: ClassText) -> ClassText:
    """A cache's class texts with those of a saved head in their place.

    Parameters
    ----------
    file : Path or str
        The head's file, of `coop` or `cpl`; no code in it is run.
    text : ClassText
        The classes that are asked for.

    Raises
    ------
    InputError
        If it is no such file, or of other classes or another width.
    """
    weights, names = _read(Path(file))
    if names != text.names or weights.shape != text.weights.shape:
        raise InputError(
            f"'{file}' has learned words for {len(names)} classes of width {weights.shape[-1]}; "
            f"here are {len(text.names)} of width {text.weights.shape[-1]}, or others by name: fit "
            "coop on this cache."
        )
    unit = normalize(weights.to(text.features), dim=-1)[:, None]  # (C, 1, D)
    return ClassText(unit, text.names, text.logit_scale, text.logit_bias)


def _read(file: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class weights and class names of a head. (C, D)"""
    try:
        with open_tensors(file) as opened:
            about = json.loads((opened.metadata() or {})["cafe"])
            weights = opened.get_tensor("weights")
            learned = "context" in opened.keys()  # noqa: SIM118  it is no mapping
        method, names = about["method"], tuple(map(str, about["class_names"]))
    except (OSError, LookupError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"'{file}' is no saved head with learned words ({one_line(error)}); "
            "'cafe fit --method coop' saves one with its run."
        ) from error
    if not learned or weights.ndim != 2 or not weights.isfinite().all():
        raise InputError(
            f"'{file}' is a head of '{method}'; learned words are in one of coop or cpl."
        )
    return weights, names
