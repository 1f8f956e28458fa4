"""What is said of a new image; knows neither the head nor the encoder that said it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from cafe.inference.neighbours import Neighbour


class ClassScore(NamedTuple):
    """A class and how sure it is.

    Attributes
    ----------
    label : str
    probability : float
        Among the classes: they sum to 1 over all of them.
    score : float or None
        Of the class by itself, as SigLIP gives it; None for encoders and heads without.
    """

    label: str
    probability: float
    score: float | None = None

    def json(self) -> dict[str, Any]:
        """The guess as JSON values, without a score where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes
    ----------
    image : str
        The image as it was named.
    top : tuple of ClassScore
        The likeliest classes, the best first; empty where the image could not be read.
    zero_shot : ClassScore or None
        What zero-shot CLIP says, where it was asked for.
    nearest : tuple of Neighbour
        The nearest training images, where they were asked for.
    reason : str
        Why it could not be read; "" where it could.
    unknown_below : float
        A best class less probable than this is no answer.
    """

    image: str
    top: tuple[ClassScore, ...] = ()
    zero_shot: ClassScore | None = None
    nearest: tuple[Neighbour, ...] = ()
    reason: str = ""
    unknown_below: float = 0.0

    @property
    def label(self) -> str | None:
        """The answer; None where the image is unknown or could not be read."""
        known = self.top and self.top[0].probability >= self.unknown_below
        return self.top[0].label if known else None

    @property
    def probability(self) -> float | None:
        """Probability of the best class; None where the image could not be read."""
        return self.top[0].probability if self.top else None

    @property
    def score(self) -> float | None:
        """Score of the best class; None without one."""
        return self.top[0].score if self.top else None

    def json(self) -> dict[str, Any]:
        """The prediction as JSON values."""
        found: dict[str, Any] = {
            "image": self.image,
            "label": self.label,
            "probability": self.probability,
            **({} if self.score is None else {"score": self.score}),
            "top": [guess.json() for guess in self.top],
        }
        if self.reason:
            found["reason"] = self.reason
        if self.zero_shot is not None:
            found["zero_shot"] = self.zero_shot.json()
        if self.nearest:
            found["nearest"] = [vars(neighbour) for neighbour in self.nearest]
        return found


def class_scores(
    probabilities: Tensor, names: Sequence[str], top: int, scores: Tensor | None = None
) -> list[tuple[ClassScore, ...]]:
    """The likeliest classes of each row, the best first.

    Parameters
    ----------
    probabilities : Tensor
        (N, C)
    names : sequence of str
        (C,)
    top : int
        How many, or all where there are fewer.
    scores : Tensor, optional
        Of each class by itself. (N, C)
    """
    values, classes = probabilities.topk(min(top, len(names)), dim=-1)
    alone = None if scores is None else scores.gather(-1, classes).tolist()
    return [
        tuple(
            ClassScore(
                names[c], round(p, 6), None if alone is None else round(alone[row][place], 6)
            )
            for place, (p, c) in enumerate(zip(ps, cs, strict=True))
        )
        for row, (ps, cs) in enumerate(zip(values.tolist(), classes.tolist(), strict=True))
    ]
