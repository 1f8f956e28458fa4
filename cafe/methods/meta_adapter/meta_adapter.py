"""Meta-Adapter (Song et al. 2023, arXiv 2311.03774): class texts refined by their shots.

Nothing is fitted: the network that refines was trained once, on other classes or datasets, by
`cafe meta-train`, and new classes cost one pass through it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Method, Validation
from cafe.methods.head import Head
from cafe.methods.linear import LinearHead, scaled_weights
from cafe.methods.meta_adapter.weights import MetaFile, MetaWeights, load_meta
from cafe.methods.tip_adapter.tip_adapter import cache_keys


class MetaAdapter(Method):
    """Class texts refined by their shots, without a fit: `s norm(x) w^T` with w the refined texts.

    Parameters
    ----------
    meta : Path, str or None
        A file of `cafe meta-train`, for the encoder of the features.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If there is no such file, or it is none of `cafe meta-train`.
    """

    name = "meta-adapter"
    summary = (
        "class texts refined by their shots through attention that was trained once, elsewhere"
    )
    source = "Song et al. 2023, arXiv 2311.03774"
    head = LinearHead
    needs = "meta file"
    no_new_classes = (
        "without shots a new class keeps its text, which is zero-shot's answer; with shots it "
        "needs no base half: give it weights that were meta-trained elsewhere"
    )

    def __init__(self, meta: Path | str | None = None, *, context: Context | None = None) -> None:
        super().__init__(context)
        if meta is None:
            raise InputError(
                "meta-adapter needs weights that were trained once on other classes; "
                "'cafe meta-train CACHE -o meta.safetensors' makes them, "
                "--meta meta.safetensors takes them."
            )
        self.meta: MetaFile = load_meta(meta)

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Refine every class's text; validation and seed play no part.

        Raises
        ------
        InputError
            If the weights are of another width than the features.
        """
        text, meta = train.text, self.meta
        meta.check_width(text.features.shape[-1])
        weights = refine(meta.weights.to(text.features.device), train)  # (C, D)
        params: dict[str, Any] = {
            "meta": str(meta.path),
            "meta_sha256": meta.sha256,
            "meta_encoder": meta.encoder,
            "meta_trained_on": ", ".join(meta.datasets),
            "meta_shots": meta.about["shots"],
        }
        return self.make_head(scaled_weights(weights, text), params)


@torch.no_grad()
def refine(weights: MetaWeights, train: TrainingSet) -> Tensor:
    """Class weights from the texts and all shots of each class, however many it has.

    Parameters
    ----------
    weights : MetaWeights
    train : TrainingSet
        The shots; the mean of its views stands for an image that has some.

    Returns
    -------
    Tensor
        Unit rows. (C, D)
    """
    keys, y = cache_keys(train.features), train.features.y
    # Class by class: counts may differ by far, and padding to the largest would take the memory.
    own = [keys[y == label] for label in range(len(train.text.names))]  # each (K_c, D)
    refined = [weights.adapt(t, k) for t, k in zip(train.text.weights, own, strict=True)]
    return torch.stack(refined)
