"""From encoded images to what is said of them: probabilities, labels, explanations."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cafe.errors import counted
from cafe.extract.encode_images import EncodedImages
from cafe.features.pool import INDUCTIVE
from cafe.inference.adaptation import Adaptation
from cafe.inference.neighbours import Neighbour, NeighbourIndex
from cafe.inference.prediction import ClassScore, Prediction, class_scores
from cafe.results.saved_head import SavedHead


@dataclass(frozen=True)
class Answers:
    """A saved head that answers for encoded images; it knows no encoder.

    Parameters
    ----------
    saved : SavedHead
    neighbours : NeighbourIndex or None
    adaptation : Adaptation or None
        As of `Predictor`.
    """

    saved: SavedHead
    neighbours: NeighbourIndex | None
    adaptation: Adaptation | None

    def keeping(self) -> AbstractContextManager[Any]:
        """A context at whose end it is kept what adaptation has learned."""
        return self.adaptation.kept() if self.adaptation is not None else nullcontext()

    def probabilities(self, x: Tensor, views: Tensor | None = None) -> Tensor:
        """Calibrated probabilities of inputs, adapted where that is wanted. (N, C)"""
        if self.adaptation is None:
            return self.saved.probabilities(x)
        features = self.saved.head.features_of(x)  # (N, D)
        if views is not None and self.adaptation.takes_views:
            features = views  # (N, V, D)
        logits = self.adaptation(features, self.saved.head(x))
        return torch.softmax(logits / (self.saved.temperature or 1.0), dim=-1)

    def predictions(
        self, batch: EncodedImages, top: int, unknown_below: float, explain: bool
    ) -> list[Prediction]:
        """A prediction for each image of a batch; see `Predictor.predict`."""
        x, saved = batch.inputs, self.saved
        told = partial(_told, saved.about.get("learning", INDUCTIVE))
        best: list[tuple[ClassScore, ...]] = []
        if len(x):
            scores = None if self.adaptation is not None else saved.scores(x)
            p = self.probabilities(x, batch.views)
            best = class_scores(p, saved.class_names, top, scores)
        features = saved.head.features_of(x)  # what neighbours and zero-shot CLIP compare
        adapted = [None] * len(x) if self.adaptation is None else self.adaptation.about(len(x))
        explained = self._explanations(features, explain)
        make = partial(Prediction, unknown_below=unknown_below)
        rows, adaptations = zip(best, *explained, strict=True), iter(adapted)
        return [
            Prediction(name, reason=reason)
            if reason
            else make(name, *next(rows), **told(next(adaptations)))
            for name, reason in zip(batch.names, batch.reasons, strict=True)
        ]

    def _explanations(
        self, x: Tensor, explain: bool
    ) -> tuple[Iterable[ClassScore | None], Iterable[tuple[Neighbour, ...]]]:
        text, neighbours = self.saved.zero_shot, self.neighbours
        zero_shot: Iterable[ClassScore | None] = [None] * len(x)
        if explain and text is not None:
            # zero-shot CLIP as a head, so that its scores follow the same rule
            plain = SavedHead(text, self.saved.about, text)
            probabilities = torch.softmax(text.logits(x), dim=-1)  # (n, C), not calibrated
            best = class_scores(probabilities, plain.class_names, 1, plain.scores(x))
            zero_shot = [first for (first,) in best]
        if not explain or neighbours is None:
            return zero_shot, [()] * len(x)
        return zero_shot, neighbours.nearest(x)


def _told(learning: str, adapted: dict[str, Any] | None) -> dict[str, Any]:
    """What an answer owes to images without labels: those of a stream, or what its head saw."""
    if adapted is not None and "images_seen" in adapted:
        seen = counted(adapted["images_seen"], "image")
        head = "" if learning == INDUCTIVE else f"; its head is {learning}"
        learning = f"transductive: sees {seen} of a stream without their labels{head}"
    return {"learning": learning, "adapted": adapted}
