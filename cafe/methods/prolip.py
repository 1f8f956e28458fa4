"""ProLIP (Fahes et al. 2024, arXiv 2410.05270): the image tower's last projection, tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Architecture, Batch, Run, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.stored_rows import PreProjection
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Job
from cafe.methods.head import Head
from cafe.methods.rla import Rla


@dataclass(frozen=True)
class ProjectedSet(TrainingSet):
    """A training set whose features are those before the projection. (N, E)"""

    projection: PreProjection

    @classmethod
    def of(cls, train: TrainingSet) -> ProjectedSet:
        """The set of a cache that has them."""
        features = train.features
        return cls(before_projection(features), train.text, features.before_projection)


def before_projection(features: Features) -> Features:
    """The same images, features before the projection in the place of the projected ones."""
    h = features.before_projection.rows.tensor().float()  # (N, V, E)
    views = h if h.shape[1] > 1 else None
    return Features(h[:, 0], features.y, views, groups=features.groups)


@dataclass(frozen=True)
class TunedProjection(Architecture):
    """`s norm(h W + b) w^T` plus the penalty `penalty |W - W0|^2`; scalar "penalty".

    Attributes
    ----------
    width : int
        E.
    """

    width: int

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """The pretrained projection: zero-shot."""
        return {"projection": _projection(train).weight.mT.contiguous()}  # W^T, (D, E)

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """The pretrained projection: W0^T (D, E) and b (1, D)."""
        projection = _projection(train)
        return {"start": projection.weight.mT, "bias": projection.bias[None]}

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        """The features as they are; what is normalised is their projection. (N, E)"""
        return {"x": x}

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        projected = shared_product(batch.rows["x"], params["projection"])  # (S, M, B, D)
        x = normalize(projected + batch.constants["bias"], dim=-1)
        return batch.scale * (x @ batch.weights.mT) + batch.bias

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The pull back to the pretrained projection. (S, M)"""
        distance = (params["projection"] - batch.constants["start"]).square().sum(dim=(-2, -1))
        return batch.scalars["penalty"].flatten(1) * distance

    def row_numbers(self, width: int) -> int:
        """See `Architecture.row_numbers`."""
        return self.width

    def constant_numbers(self, train: TrainingSet) -> int:
        """See `Architecture.constant_numbers`."""
        return 2 * _projection(train).weight.numel()

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`."""
        return 4 * parameters + 4 * rows * width + 4 * rows * classes


def _projection(train: TrainingSet) -> PreProjection:
    return cast("ProjectedSet", train).projection


@dataclass(frozen=True, eq=False)
class ProLipHead(Head):
    """`s norm(h W + b) w^T`, plus the encoder's logit bias; h is before the projection."""

    weights: Tensor  # zero-shot w, (C, D)
    projection: Tensor  # W, (E, D)
    projection_bias: Tensor  # b, (D,)
    pretrained: Tensor  # W0, (E, D)

    pre_projection = True
    cosine_logits = True

    def logits(self, x: Tensor) -> Tensor:
        """Class scores of features before the projection (N, E); see `Head.logits`. (N, C)"""
        return self.scale_cosines(self.adapted(x) @ self.weights.mT)

    def adapted(self, x: Tensor) -> Tensor:
        """See `Head.adapted`. (N, D)"""
        return normalize(x @ self.projection + self.projection_bias, dim=-1)

    def features_of(self, x: Tensor) -> Tensor:
        """See `Head.features_of`. (N, D)"""
        return x @ self.pretrained + self.projection_bias


class ProLip(Rla):
    """ProLIP: the image tower's last projection W, `s norm(h W + b) w^T`; nothing need be chosen.

    h are the features before the projection (`cafe extract --pre-projection`). W starts at the
    pretrained W0. The loss is the mean cross-entropy plus `penalty |W - W0|^2`, the bias b of a
    ResNet and the class texts stay as they are.

    Parameters
    ----------
    penalty : float or None
        Weight of the distance to W0. None is the paper's 1/K for K images in the largest class.
    penalties : sequence of float
        Candidates under validation, the strongest first.
    recipe : Recipe or None
        How to optimise. None is that of `rla`, 300 steps at 1e-3. The paper finds learning rates
        from 1e-5, its code's, to 1e-2 much the same under this penalty. At 1e-5 the 300 steps end
        far from the minimum where weights and features are of another size than OpenAI's.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If a penalty is not above 0, or the images have no features before the projection.
    """

    name = "prolip"
    summary = "the last projection, held near the pretrained one (cafe extract --pre-projection)"
    source = "Fahes et al. 2024, arXiv 2410.05270"
    head = ProLipHead
    needs = "pre-projection features"
    published = Rla.published

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all candidates of all jobs side by side."""
        return super().fit_many([_projected(job) for job in jobs])

    def _run(self, job: Job, data: int, penalty: float) -> Run:
        kind = TunedProjection(job.train.features.x.shape[-1])
        return Run(kind, data, job.seed, self.recipe, {"penalty": penalty})

    def _tensors(self, train: TrainingSet, trained: Tensors) -> dict[str, Tensor]:
        start = _projection(train)
        return {
            "projection": trained["projection"].mT.contiguous(),
            "projection_bias": start.bias,
            "pretrained": start.weight,
        }


def _projected(job: Job) -> Job:
    """A job on features before the projection."""
    validation = job.validation
    if validation.features is not None:
        validation = replace(validation, features=before_projection(validation.features))
    return job._replace(train=ProjectedSet.of(job.train), validation=validation)
