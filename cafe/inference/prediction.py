"""The prediction for a new image; knows neither head nor encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from cafe.datasets.text_files import distinct_names
from cafe.features.pool import INDUCTIVE
from cafe.inference.neighbours import Neighbour


class ClassScore(NamedTuple):
    """A class and its probability for an image.

    Attributes
    ----------
    label : str
    probability : float
        Calibrated; probabilities of all classes sum to 1.
    score : float or None
        `sigmoid(logit)` of the class alone (SigLIP); None where the head has no scores.
    """

    label: str
    probability: float
    score: float | None = None

    def json(self) -> dict[str, Any]:
        """JSON values, without a score where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True)
class Prediction:
    r"""The prediction for one image.

    Attributes
    ----------
    image : str
        The image as it was named; a byte that is not UTF-8 is escaped, as in `caf\xe9.png`.
    top : tuple of ClassScore
        The most probable classes, the best first; empty if the image could not be read.
    zero_shot : ClassScore or None
        Zero-shot CLIP's best class, if `explain` asked for it.
    nearest : tuple of Neighbour
        The nearest training images, if `explain` asked for them.
    reason : str
        Why the image could not be read; "" if it could.
    unknown_below : float
        An image whose best class is less probable than this has no label.
    learning : str
        What the head saw without labels; see `cafe.features.pool`.
    adapted : dict or None
        What the answer is adapted by and on what, where it is: "method", and "images_seen" of the
        stream, this one counted, or "context_images".
    """

    image: str
    top: tuple[ClassScore, ...] = ()
    zero_shot: ClassScore | None = None
    nearest: tuple[Neighbour, ...] = ()
    reason: str = ""
    unknown_below: float = 0.0
    learning: str = INDUCTIVE
    adapted: dict[str, Any] | None = None

    @property
    def label(self) -> str | None:
        """The best class; None if the image is unknown or could not be read."""
        known = self.top and self.top[0].probability >= self.unknown_below
        return self.top[0].label if known else None

    @property
    def probability(self) -> float | None:
        """Probability of the best class; None if the image could not be read."""
        return self.top[0].probability if self.top else None

    @property
    def score(self) -> float | None:
        """Score of the best class; None without one."""
        return self.top[0].score if self.top else None

    def json(self) -> dict[str, Any]:
        """The prediction as JSON values."""
        values: dict[str, Any] = {
            "image": self.image,
            "label": self.label,
            "probability": self.probability,
            **({} if self.score is None else {"score": self.score}),
            "top": [score.json() for score in self.top],
        }
        if self.reason:
            values["reason"] = self.reason
        if self.learning != INDUCTIVE:
            values["learning"] = self.learning
        if self.zero_shot is not None:
            values["zero_shot"] = self.zero_shot.json()
        if self.adapted is not None:
            values["adapted"] = self.adapted
        if self.nearest:
            values["nearest"] = [vars(neighbour) for neighbour in self.nearest]
        return values


def class_scores(
    probabilities: Tensor, names: Sequence[str], top: int, scores: Tensor | None = None
) -> list[tuple[ClassScore, ...]]:
    """The most probable classes of each image, the best first.

    Parameters
    ----------
    probabilities : Tensor
        (N, C)
    names : sequence of str
        Equal ones are shown with their index. (C,)
    top : int
        How many; all if there are fewer.
    scores : Tensor, optional
        See `ClassScore`. (N, C)
    """
    names = distinct_names(names)
    best = probabilities.topk(min(top, len(names)), dim=-1).indices  # (N, top)
    return [
        tuple(
            ClassScore(
                names[c],
                round(probabilities[row, c].item(), 6),
                None if scores is None else round(scores[row, c].item(), 6),
            )
            for c in classes
        )
        for row, classes in enumerate(best.tolist())
    ]
