"""VT-CLIP (Qiu et al. 2021, arXiv 2112.02399): class texts that look at the image's spatial map.

Every class text attends to the tokens of the image and takes what it finds there as a residual, so
that the class weights depend on the image. The authors published no code; this is their
cross-attention with its residual, of one head, without the self-attention and the feed-forward
layer around it, which a few shots cannot train. Its last projection starts at 0: zero-shot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Architecture, Batch, Recipe, Run, Trained, linear_weights, shared_product
from cafe.engine.architecture import Tensors
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job, training_params
from cafe.methods.checks import bottleneck_word, check_not_negative, parse_bottleneck
from cafe.methods.head import Head, scale_params
from cafe.methods.validation import train_best

PARTS = ("query", "key", "down", "up")
"""The four projections, D to H each but `up`, which goes back."""


def guided_cosines(
    x: Tensor, tokens: Tensor, w: Tensor, parts: Tensors, gate: Tensor | float
) -> Tensor:
    """`cos(x, w_c + gate o_c)`, o_c being what class c finds in the map.

    `o_c = U^T sum_t a_ct V v_t`, with attention `a_c = softmax_t(D (Q w_c) . (K v_t) / sqrt(H))`
    over the unit tokens v_t. Texts and tokens have length 1 where a transformer's layer norm would
    give them sqrt(D), hence the factor D. What is of size D is never made for an image and a class:
    the length of `w_c + gate o_c` comes from products in H dimensions.

    Parameters
    ----------
    x : Tensor
        Unit features. (S, B, D)
    tokens : Tensor
        Unit tokens of their maps. (S, B, T, D)
    w : Tensor
        Class weights, of length 1. (C, D)
    parts : mapping of str to Tensor
        "query", "key", "down", "up": Q, K, V, U. (S, M, H, D) each
    gate : Tensor or float
        Weight of the residual. (S, M, 1, 1)

    Returns
    -------
    Tensor
        Cosines. (S, M, B, C)
    """
    _, images, count, width = tokens.shape
    flat = tokens.flatten(1, 2)  # (S, B T, D)
    form = (*parts["up"].shape[:2], images, count, -1)
    keys = shared_product(flat, parts["key"]).reshape(form)  # (S, M, B, T, H)
    queries = w @ parts["query"].mT  # (S, M, C, H)
    attention = queries[:, :, None] @ keys.mT * (width / math.sqrt(keys.shape[-1]))
    values = shared_product(flat, parts["down"]).reshape(form)  # (S, M, B, T, H)
    found = torch.softmax(attention, dim=-1) @ values  # (S, M, B, C, H)
    up = parts["up"]
    along_x = (found @ shared_product(x, up)[..., None]).squeeze(-1)  # x . o, (S, M, B, C)
    along_w = (found * (w @ up.mT)[:, :, None]).sum(-1)  # w . o
    square = ((found @ (up @ up.mT)[:, :, None]) * found).sum(-1)  # o . o
    length = (1 + gate * (2 * along_w + gate * square)).clamp_min(1e-12).sqrt()
    cosines: Tensor = ((x @ w.mT)[:, None] + gate * along_x) / length
    return cosines


@dataclass(frozen=True)
class VisualGuided(Architecture):
    """Class weights with a residual from each image's map; scalar "gate".

    Attributes
    ----------
    bottleneck : int
        H.
    tokens : int
        T.
    """

    bottleneck: int
    tokens: int
    spatial: ClassVar[bool] = True

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """Zero-shot; texts start by looking at the tokens that are like them, as Q = K."""
        width = train.text.features.shape[-1]
        look, down = linear_weights(run.seed, *[(self.bottleneck, width)] * 2)
        none = torch.zeros_like(down)
        return {"query": look, "key": look.clone(), "down": down, "up": none}  # (H, D) each

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        """Unit feature and unit tokens of what `Features.inputs` gives. (N, 1 + T, D)"""
        unit = normalize(x, dim=-1)
        return {"x": unit[:, 0], "tokens": unit[:, 1:]}

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        gate, rows = batch.scalars["gate"], batch.rows
        cosines = guided_cosines(rows["x"], rows["tokens"], batch.weights, params, gate)
        return batch.scale * cosines + batch.bias

    def row_numbers(self, width: int) -> int:
        """See `Architecture.row_numbers`."""
        return (1 + self.tokens) * width

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: attention and what it finds, with their gradients."""
        seen = 6 * self.tokens * self.bottleneck
        compared = 5 * classes * (self.tokens + self.bottleneck)
        return 4 * parameters + rows * (seen + compared + 8 * classes)


@dataclass(frozen=True, eq=False)
class VtClipHead(Head):
    """`s cos(x, w_c + gate o_c(tokens))`; see `guided_cosines`.

    Its params hold "gate", "logit_scale" and "logit_bias".
    """

    weights: Tensor  # w, (C, D), unit rows
    query: Tensor  # (H, D), as all projections
    key: Tensor
    down: Tensor
    up: Tensor

    spatial = True
    cosine_logits = True

    def logits(self, x: Tensor) -> Tensor:
        """Class scores of features and maps (N, 1 + T, D); see `Head.logits`. (N, C)"""
        if x.ndim != 3:
            raise InputError(
                "vt-clip takes (N, 1 + T, D), each image's feature and then its map; got "
                f"{tuple(x.shape)}."
            )
        unit = normalize(x, dim=-1)[None]  # (1, N, 1 + T, D)
        parts = {name: getattr(self, name)[None, None] for name in PARTS}  # (1, 1, H, D)
        gate: float = self.params["gate"]
        cosines = guided_cosines(unit[:, :, 0], unit[:, :, 1:], self.weights, parts, gate)
        return self.scale_cosines(cosines[0, 0])


class VtClip(BatchedMethod):
    """Class texts that attend to the image's spatial map (`cafe extract --spatial` caches maps).

    Parameters
    ----------
    gate : float
        Weight of what a text finds in the image; 0 is zero-shot. 0.3 and the recipe's rate are
        ours, chosen on validation images of `digits`: at 1 and 1e-3 the adapter overfits a single
        shot, which cost 5 points of zero-shot's accuracy with maps of four tokens.
    bottleneck : str or int
        H of the four projections, as a number or as a part of D.
    gates : sequence of float
        Candidates for `gate` under validation, from the weakest on.
    recipe : Recipe or None
        How to optimise, on plain images, as augmented views have no map; None is
        `Recipe(lr=3e-4, batch_size=32)`.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If the gate is negative, or the bottleneck is neither a width nor a part of D.
    """

    name = "vt-clip"
    summary = "class texts that look at the image's spatial map (cafe extract --spatial)"
    source = "Qiu et al. 2021, arXiv 2112.02399"
    head = VtClipHead
    needs = "spatial features"

    def __init__(
        self,
        gate: float = 0.3,
        bottleneck: str | int = "D/8",
        *,
        gates: Sequence[float] = (0.1, 0.3, 1.0, 3.0),
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.gate = check_not_negative("gate", gate)
        self.gates = tuple(check_not_negative("gate", candidate) for candidate in gates)
        self.bottleneck = bottleneck
        self.recipe = replace(recipe or Recipe(lr=3e-4, batch_size=32), views=False)
        bottleneck_word(bottleneck)  # a bad word is refused before features are read

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all candidates of all jobs side by side."""
        runs = [self._run(job.train, number, job.seed) for number, job in enumerate(jobs)]
        candidates = [[replace(run, scalars={"gate": gate}) for gate in self.gates] for run in runs]
        trained = train_best(runs, candidates, jobs, self.context)
        return [self._head(run, job.train) for run, job in zip(trained, jobs, strict=True)]

    def _run(self, train: TrainingSet, data: int, seed: int) -> Run:
        if train.features.spatial_maps is None:
            raise InputError(
                "vt-clip needs spatial features, and the training images have none; 'cafe extract "
                "--spatial' adds them to a cache."
            )
        count = train.features.spatial_maps.count
        architecture = VisualGuided(
            parse_bottleneck(self.bottleneck, train.text.features.shape[-1]), count
        )
        return Run(architecture, data, seed, self.recipe, {"gate": self.gate})

    def _head(self, trained: Trained, train: TrainingSet) -> Head:
        architecture = trained.run.architecture
        params = {
            **asdict(architecture),  # type: ignore[call-overload]
            **trained.run.scalars,
            **training_params(trained),
            **scale_params(train.text),
        }
        return self.make_head({**trained.tensors, "weights": train.text.weights}, params)
