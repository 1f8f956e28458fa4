"""The estimated accuracy of a model on new images, and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from cafe.results.typed_json import Index, Percent


@dataclass(frozen=True)
class Share:
    """Images that were judged, and how many of them were labelled right."""

    images: Index
    right: Index

    @property
    def accuracy(self) -> float | None:
        """In percent; None where no image was judged."""
        return 100.0 * self.right / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy in percent, after Wilson (1927), JASA 22."""
        if not self.images:
            return 0.0, 100.0
        from scipy.stats import binomtest  # slow to import

        ci = binomtest(self.right, self.images).proportion_ci(0.95, method="wilson")
        return 100.0 * float(ci.low), 100.0 * float(ci.high)


@dataclass(frozen=True)
class Estimate:
    """Accuracy on images that the judged heads were not fitted on.

    Attributes
    ----------
    accuracy, low, high : float
        Top-1 in percent, and its 95 % interval.
    images : int
        How many were judged, each once.
    source : {"cross-validation", "test split"}
        Where they are from: the training images in folds, or the dataset's own test split.
    folds : int
        Heads that judged; 1 for a test split.
    zero_shot : float or None
        What zero-shot CLIP reaches on the same images; None where texts do not tell classes apart.
    per_class : tuple of Share
        (C,)
    """

    accuracy: Percent
    low: Percent
    high: Percent
    images: Annotated[int, Field(ge=1)]
    source: Literal["cross-validation", "test split"]
    folds: Annotated[int, Field(ge=1)]
    zero_shot: Percent | None
    per_class: tuple[Share, ...]

    @property
    def words(self) -> str:
        """`83.1 % (95 % interval 80.0 to 85.9) by 10-fold cross-validation on 600 images`."""
        own = self.source == "test split"
        how = "on its own test split of" if own else f"by {self.folds}-fold cross-validation on"
        return (
            f"{self.accuracy:.1f} % (95 % interval {self.low:.1f} to {self.high:.1f}) {how} "
            f"{self.images:,} images"
        )


def make_estimate(
    per_class: Sequence[Share],
    source: Literal["cross-validation", "test split"],
    folds: int,
    zero_shot: float | None,
) -> Estimate:
    """The estimate by the images of every class that were judged, at least one in all."""
    total = Share(sum(s.images for s in per_class), sum(s.right for s in per_class))
    low, high = total.interval
    accuracy = 100.0 * total.right / total.images
    return Estimate(accuracy, low, high, total.images, source, folds, zero_shot, tuple(per_class))
