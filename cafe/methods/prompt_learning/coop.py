"""CoOp (Zhou et al. 2022, arXiv 2109.01134): the words around a class name, learned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Recipe
from cafe.engine.draws import normal_weights
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job
from cafe.methods.checks import check_count
from cafe.methods.head import Head
from cafe.methods.linear import LinearHead, scaled_weights
from cafe.methods.prompt_learning.prompts import Prompts, TextTower
from cafe.methods.prompt_learning.training import (
    ContextRun,
    Objective,
    learn_contexts,
    precision_of,
)

INITIAL_STD = 0.02
"""A context that starts from no words is drawn from N(0, 0.02^2) (section 4.1)."""

EPOCHS = {1: 50, 4: 100}
"""Passes of the authors up to so many shots; beyond, those of the recipe (section 4.1)."""


@dataclass(frozen=True, eq=False)
class PromptHead(LinearHead):
    """`s norm(x) norm(t)^T` with `t` the text features under a learned context, which it keeps."""

    context: Tensor  # the learned token embeddings, (1 or C, T, W)


class Coop(BatchedMethod):
    """Prompts `[v1] ... [vT] [class name].` with learned v.

    Parameters
    ----------
    prompt : int or str
        T, or words that v starts from ("a photo of a"); 16 is the paper's.
    class_specific : bool
        Learn a context for each class instead of one for all.
    tower : TextTower
        The encoder's text tower; `cafe.encoders.text_tower.load_tower` makes it of a cache's
        encoder.
    recipe : Recipe or None
        How to optimise: SGD with momentum 0.9 after one epoch of warm-up. None is the authors' for
        the shots at hand: 50 epochs for 1, 100 for up to 4, else 200 (50 for ImageNet, which is for
        the user to say), on augmented views where the cache has them. The last batch of an epoch is
        smaller where theirs would be left out.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If there is no tower, or the prompt is neither words nor a count.
    """

    name = "coop"
    summary = "learned words around the class names"
    source = "Zhou et al. 2022, arXiv 2109.01134"
    head = PromptHead
    needs = "text tower"
    no_new_classes = (
        "its head holds the text features of the base classes; new ones need the text tower"
    )
    published = Recipe(lr=2e-3, weight_decay=5e-4, epochs=200, batch_size=32, views=True)

    def __init__(
        self,
        prompt: int | str = 16,
        *,
        class_specific: bool = False,
        tower: TextTower | None = None,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        if not isinstance(tower, TextTower):
            raise InputError(
                f"{self.name} learns prompts in the encoder's text tower, and "
                f"{'none' if tower is None else repr(type(tower).__name__)} was given; pass "
                "tower=load_tower(cache), from cafe.encoders.text_tower."
            )
        self.prompt = prompt if isinstance(prompt, str) else check_count("prompt", prompt)
        self.class_specific = class_specific
        self.tower = tower
        self.recipe = recipe or self.published
        self._own_recipe = recipe is None

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, side by side; no hyper-parameter is chosen."""
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            text = job.train.text
            groups[text.names, text.logit_scale, text.logit_bias].append(number)
        heads: dict[int, Head] = {}
        for members in groups.values():
            heads |= zip(members, self._fit([jobs[number] for number in members]), strict=True)
        return [heads[number] for number in range(len(jobs))]

    def objective(self, text: ClassText) -> Objective:
        """What runs on training sets of these classes minimise."""
        return Objective(text)

    def in_force(self) -> dict[str, Any]:
        """What the head's params say beside recipe and seed."""
        return {"prompt": self.prompt, "class_specific": self.class_specific}

    def recipe_for(self, train: TrainingSet) -> Recipe:
        """The recipe for the shots at hand, unless one was given."""
        shots = int(train.features.y.bincount().max())
        epochs = next((epochs for most, epochs in EPOCHS.items() if shots <= most), None)
        if self._own_recipe and epochs is not None:
            return replace(self.recipe, epochs=epochs)
        return self.recipe

    def _fit(self, jobs: Sequence[Job]) -> list[Head]:
        """Heads of jobs whose classes and logit scale are the same."""
        text, device = jobs[0].train.text, self.context.device
        width = text.features.shape[-1]
        if self.tower.width != width:
            raise InputError(
                f"the text tower gives features of width {self.tower.width} and the cache holds "
                f"{width}: it is another encoder's; pass tower=load_tower(cache)."
            )
        prompts = Prompts(self.tower.to(device), text.names, self.prompt, device)
        if prompts.alike and not self.class_specific:
            names = " and ".join(f"{number} '{text.names[number]}'" for number in prompts.alike)
            raise InputError(
                f"classes {names} have one name for this encoder, so {self.name} cannot tell them "
                "apart; give each its own name, or learn words for each with class_specific=True."
            )
        runs = [
            ContextRun(self._start(prompts, seed), train, seed, self.recipe_for(train))
            for train, _, seed in jobs
        ]
        learned = learn_contexts(runs, prompts, self.objective(text), self.context)
        return [
            self._head(run, context, prompts) for run, context in zip(runs, learned, strict=True)
        ]

    def _start(self, prompts: Prompts, seed: int) -> Tensor:
        """Where a context starts. (1 or C, T, W)"""
        count = len(prompts.tokens) if self.class_specific else 1
        if prompts.words is not None:
            return prompts.words.repeat(count, 1, 1)
        return normal_weights(seed, INITIAL_STD, (count, *prompts.shape))

    @torch.no_grad()
    def _head(self, run: ContextRun, context: Tensor, prompts: Prompts) -> Head:
        text = run.train.text
        features = prompts.features(context[None])[0]  # (C, D)
        weights = normalize(features.float(), dim=-1)
        params = {
            **self.in_force(),
            **asdict(run.recipe),
            "seed": run.seed,
            "precision": precision_of(self.context),
        }
        return self.make_head({**scaled_weights(weights, text), "context": context}, params)
