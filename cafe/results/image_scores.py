"""Scores of a head on each image, and all metrics over them; logits are not kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from cafe.errors import InputError

BINS = 15
"""Bins of the calibration error (Guo et al. 2017, section 4)."""

_CACHED = 1 << 18  # logits at a time, which stay in a core's cache: three times as fast

_TYPES = (torch.int64, torch.bool, torch.float64, torch.float64, torch.float64)


@dataclass(frozen=True)
class ImageScores:
    """Scores of a head on N labelled images.

    Attributes
    ----------
    labels : Tensor
        Their classes. (N,)
    classes : int
        C.
    temperature : float or None
        What logits are divided by for calibrated probabilities; None where none was fitted.
    predicted : Tensor
        The class of the highest logit. (N,)
    in_top_5 : Tensor
        Whether the label is among the five highest. (N,) bool
    log_likelihood : Tensor
        Log-probability of the label. (N,) float64
    confidence : Tensor
        Highest probability. (N,) float64
    calibrated : Tensor
        Highest probability under the temperature. (N,) float64
    """

    labels: Tensor
    classes: int
    temperature: float | None
    predicted: Tensor
    in_top_5: Tensor
    log_likelihood: Tensor
    confidence: Tensor
    calibrated: Tensor

    @classmethod
    def room_for(
        cls, labels: Tensor, classes: int, temperature: float | None = None
    ) -> ImageScores:
        """Scores that are still to be filled in, by `add`."""
        parts = [labels.new_empty(len(labels), dtype=dtype) for dtype in _TYPES]
        return cls(labels, classes, temperature, *parts)

    def add(self, logits: Tensor, start: int = 0) -> None:
        """Fill in the images from number `start` on, by their logits. (n, C)"""
        rows = max(1, _CACHED // self.classes)
        for place, z in enumerate(torch.split(logits, rows)):
            first = start + place * rows
            self._fill(slice(first, first + len(z)), z)

    def _fill(self, rows: slice, logits: Tensor) -> None:
        y, z = self.labels[rows], logits.double()
        self.predicted[rows] = logits.max(dim=-1).indices
        self.in_top_5[rows] = in_top(logits, y, 5)
        log_p = torch.log_softmax(z, dim=-1)  # (n, C)
        self.log_likelihood[rows] = log_p.gather(1, y[:, None]).squeeze(1)
        self.confidence[rows] = log_p.amax(dim=-1).exp()
        self.calibrated[rows] = self.confidence[rows]
        if self.temperature is not None:
            self.calibrated[rows] = torch.softmax(z / self.temperature, dim=-1).amax(dim=-1)

    @property
    def right(self) -> Tensor:
        """Whether the label has the highest logit. (N,) bool"""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.right.double().mean().item()

    @property
    def top_5_accuracy(self) -> float:
        """Share of images in percent that `in_top_5` counts."""
        return 100.0 * self.in_top_5.double().mean().item()

    @property
    def per_class_accuracy(self) -> Tensor:
        """Top-1 accuracy of each class in percent; NaN where a class has no image. (C,)"""
        total = torch.bincount(self.labels, minlength=self.classes)
        right = torch.bincount(self.labels, weights=self.right.double(), minlength=self.classes)
        return 100.0 * right / total

    @property
    def mean_class_accuracy(self) -> float:
        """Top-1 accuracy in percent, every class that has an image counting the same."""
        each = self.per_class_accuracy
        return each[~each.isnan()].mean().item()

    @property
    def negative_log_likelihood(self) -> float:
        """Mean negative log-likelihood of the right class, in nats."""
        # as torch sums cross-entropy, which a plain mean does not to the last digit
        return nll_loss(self.log_likelihood[:, None], torch.zeros_like(self.labels)).item()

    def reliability(self, bins: int = BINS, *, calibrated: bool = False) -> Tensor:
        """Images, summed confidence and hits in equal bins of the highest probability.

        Parameters
        ----------
        bins : int
            Bins from 0 to 1, each without its lower end.
        calibrated : bool
            Take probabilities under the temperature.

        Returns
        -------
        Tensor
            On the CPU. (3, bins) float64

        Raises
        ------
        InputError
            If there is no bin.
        """
        if bins < 1:
            raise InputError(f"calibration error needs at least 1 bin; got {bins}.")
        confidence = self.calibrated if calibrated else self.confidence  # (N,)
        number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (N,)
        hits = self.right.double()  # (N,)
        parts = (torch.ones_like(hits), confidence, hits)
        return torch.stack([torch.bincount(number, part, minlength=bins) for part in parts]).cpu()

    def expected_calibration_error(self, bins: int = BINS, *, calibrated: bool = False) -> float:
        """Expected calibration error in percent; see `reliability`.

        `sum_b n_b / N |accuracy_b - confidence_b|` over equal bins of the highest probability
        (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, equation 3).
        """
        images, confidence, hits = self.reliability(bins, calibrated=calibrated)  # (bins,) each
        return 100.0 * float((hits - confidence).abs().sum() / images.sum())


def in_top(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k highest logits.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    k : int
        At least 1; with no more than k classes every image counts.

    Returns
    -------
    Tensor
        (N,) bool
    """
    if k < 1:
        raise InputError(f"top-k accuracy needs a k of at least 1; got {k}.")
    highest = logits.topk(min(k, logits.shape[-1]), dim=-1).indices  # (N, k)
    return (highest == labels[:, None]).any(dim=-1)
