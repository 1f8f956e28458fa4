"""CLIP-Adapter (Gao et al., arXiv 2110.04544): a bottleneck blended with the features it adapts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from cafe.engine import Recipe, Run, Trained
from cafe.features.tensors import TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job, training_params
from cafe.methods.checks import bottleneck_word, check_ratio, parse_bottleneck
from cafe.methods.clip_adapter.architecture import (
    AdapterArchitecture,
    BothAdapter,
    TextAdapter,
    VisualAdapter,
    ratios_in_force,
)
from cafe.methods.clip_adapter.counterfactual_architecture import (
    CounterfactualAdapter,
    check_counterfactual,
)
from cafe.methods.clip_adapter.head import AdapterHead
from cafe.methods.clip_adapter.ratio_ensemble import fit_ratio_ensembles
from cafe.methods.ensemble import EnsembleHead
from cafe.methods.head import Head, scale_params
from cafe.methods.validation import train_best

DEFAULT_RATIO = 0.2
"""The paper's ratio for generic images (Caltech101, ImageNet); where a learned one starts."""


class ClipAdapter(BatchedMethod):
    """An adapter on the image features, the paper's default: `s norm(a A(x) + (1 - a) x) w^T`.

    Parameters
    ----------
    ratio : float, "learn" or "auto"
        Weight of the adapted features in the blend, from 0 (zero-shot) to 1; 0.2 is the paper's
        for generic images. "learn" trains one per run, from 0.2. "auto" mixes several, weighted by
        cross-validation inside the shots, whatever the protocol; see `ratio_ensemble` beside this
        file.
    bottleneck : str or int
        H, as a number or as a part of D ("D/4", the paper's best).
    text_ratio : float or None
        The ratio of the class weights where both branches are on; None takes `ratio`.
    ratios : sequence of float
        Candidates for `ratio`, chosen among by validation. Fewer than two keep `ratio` whatever the
        protocol, as does "cv" at one shot.
    recipe : Recipe or None
        How to optimise; None is `Recipe()`.
    final_relu : bool
        ReLU after the second layer: True is the authors' module, False the paper's formula.
    counterfactual : float
        Weight of telling images from their counterfactuals (see `counterfactual_architecture`
        beside this file); 0, the paper's training, does without. For the visual branch alone.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If a ratio is outside [0, 1] or the bottleneck is neither a width nor a part of D.
    """

    name = "clip-adapter"
    summary = "residual bottleneck adapter on the image features"
    source = "Gao et al. 2021, arXiv 2110.04544"
    head = AdapterHead
    no_new_classes = ""
    architecture: ClassVar[type[AdapterArchitecture]] = VisualAdapter
    unused: ClassVar[tuple[str, ...]] = ("text_ratio",)
    """Arguments of the constructor that mean nothing for these branches."""

    def __init__(
        self,
        ratio: float | Literal["learn", "auto"] = 0.2,
        bottleneck: str | int = "D/4",
        *,
        text_ratio: float | None = None,
        ratios: Sequence[float] = (),
        recipe: Recipe | None = None,
        final_relu: bool = True,
        counterfactual: float = 0.0,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.learn_ratio, self.mix_ratios = ratio == "learn", ratio == "auto"
        unknown = self.learn_ratio or self.mix_ratios
        self.ratio = DEFAULT_RATIO if unknown else check_ratio(ratio)
        self.text_ratio = None if text_ratio is None else check_ratio(text_ratio)
        # From the weakest on, as `pick_best` takes the first of equals.
        self.ratios = tuple(sorted(check_ratio(candidate) for candidate in ratios))
        self.bottleneck = bottleneck
        self.recipe = recipe or Recipe()
        self.final_relu = final_relu
        self.counterfactual = check_counterfactual(counterfactual, self.architecture)
        bottleneck_word(bottleneck)  # a bad word is refused before features are read

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """See `Method.settings`."""
        return tuple(name for name in super().settings() if name not in cls.unused)

    @classmethod
    def make_head(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
        """Of one ratio, or an ensemble of several; see `Method.make_head`."""
        kind = EnsembleHead if "members" in params else AdapterHead
        return kind(**tensors, params=params, method=cls.name)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all candidates of all jobs side by side."""
        if self.mix_ratios:
            return fit_ratio_ensembles(self, jobs, self.name)
        ratios = () if self.learn_ratio or len(self.ratios) < 2 else self.ratios
        defaults = [self.run_for(job.train, i, job.seed, self.ratio) for i, job in enumerate(jobs)]
        candidates = [
            [self.run_for(job.train, i, job.seed, ratio) for ratio in ratios]
            for i, job in enumerate(jobs)
        ]
        trained = train_best(defaults, candidates, jobs, self.context)
        return [self.head_for(run, job.train) for run, job in zip(trained, jobs, strict=True)]

    def run_for(self, train: TrainingSet, job: int, seed: int, ratio: float) -> Run:
        """The engine's run for one training set (number `job` of a call), seed and ratio."""
        width = train.text.features.shape[-1]
        weighting: Any = {"weight": self.counterfactual} if self.counterfactual else {}
        architecture: AdapterArchitecture = (
            CounterfactualAdapter if weighting else self.architecture
        )(
            bottleneck=parse_bottleneck(self.bottleneck, width),
            final_relu=self.final_relu,
            learn_ratio=self.learn_ratio,
            **weighting,
        )
        both = len(self.architecture.branches) > 1
        last = self.text_ratio if both and self.text_ratio is not None else ratio
        values = {"ratio": ratio, "text_ratio": last}
        scalars = {
            f"{prefix}ratio": values[f"{prefix}ratio"] for prefix in self.architecture.branches
        }
        return Run(architecture, job, seed, self.recipe, scalars)

    def head_for(self, trained: Trained, train: TrainingSet) -> AdapterHead:
        """The head of a run that is done."""
        width = train.text.features.shape[-1]
        params = {
            "method": self.name,
            **ratios_in_force(trained),
            "bottleneck": parse_bottleneck(self.bottleneck, width),
            "final_relu": self.final_relu,
            "learn_ratio": self.learn_ratio,
            **({"counterfactual": self.counterfactual} if self.counterfactual else {}),
            **training_params(trained),
            **scale_params(train.text),
        }
        kept = {n: v for n, v in trained.tensors.items() if not n.endswith("ratio_u")}
        return AdapterHead(train.text.weights, **kept, params=params, method=self.name)


class ClipAdapterText(ClipAdapter):
    """An adapter on the class weights: `s norm(x) norm(b A(w) + (1 - b) w)^T`, with b `ratio`.

    Its settings are those of `clip-adapter`, but for `counterfactual`.
    """

    name = "clip-adapter-text"
    summary = "residual bottleneck adapter on the class weights"
    architecture = TextAdapter
    unused = ("text_ratio", "counterfactual")


class ClipAdapterBoth(ClipAdapter):
    """An adapter on the image features and one on the class weights.

    `ratio` weights the adapted images, `text_ratio` the adapted class weights. The other settings
    are those of `clip-adapter`, but for `counterfactual`.
    """

    name = "clip-adapter-both"
    summary = "adapters on image features and class weights, each with its ratio"
    architecture = BothAdapter
    unused = ("counterfactual",)
