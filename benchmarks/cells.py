"""What the benchmarks of few-shot heads share: options, files and shot counts, draws, accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from cafe.features.splits import draw_shots
from cafe.features.tensors import ClassText, Features, TrainingSet

ROOT = Path(__file__).resolve().parent.parent
CELLS = {
    "caltech101-66.ViT-B-32": (1, 2, 4, 8, 16),
    "whu-rs19.RN50": (1, 2, 4, 8, 16),
    "whu-rs19.ViT-B-32": (1, 2, 4, 8, 16),
    "imagenet-dogs.ViT-B-32": (1, 2, 4),
    "imagenet-food.ViT-B-32": (1, 2, 4),
}
"""File of features -> shots per class."""


def make_parser(
    words: str | None, *, seeds: int | None = None, is_written: bool = False
) -> argparse.ArgumentParser:
    """The options that most of these take, of which a script may say more.

    Parameters
    ----------
    words : str
        What `--help` says.
    seeds : int, optional
        The default of `--seeds`; None does without.
    is_written : bool
        Whether `--output` must be given.
    """
    parser = argparse.ArgumentParser(
        description=words, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", type=Path, default=ROOT.parent / "shared/data/features")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("-o", "--output", type=Path, required=is_written)
    return parser


def draw_sets(
    pool: Features, text: ClassText, shots: int, seeds: Iterable[int]
) -> list[TrainingSet]:
    """A training set for each seed."""
    return [TrainingSet(pool[draw_shots(pool.y, shots, seed)], text) for seed in seeds]


def percent_right(logits: Tensor, y: Tensor) -> float:
    """Top-1 accuracy in percent, to two digits."""
    return round(100 * float((logits.argmax(dim=-1) == y).float().mean()), 2)
