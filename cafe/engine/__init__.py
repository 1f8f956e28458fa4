"""Training heads side by side: runs in, trained tensors out."""

from cafe.engine.architecture import (
    Architecture,
    Batch,
    Run,
    Trained,
    mean_cross_entropy,
    shared_product,
)
from cafe.engine.draws import BatchOrder, linear_weights
from cafe.engine.evaluate import Score, evaluate, logit_blocks
from cafe.engine.optimizer import Recipe
from cafe.engine.trainer import train
from cafe.engine.workspace import Workspace

__all__ = [
    "Architecture",
    "Batch",
    "BatchOrder",
    "Recipe",
    "Run",
    "Score",
    "Trained",
    "Workspace",
    "evaluate",
    "linear_weights",
    "logit_blocks",
    "mean_cross_entropy",
    "shared_product",
    "train",
]
