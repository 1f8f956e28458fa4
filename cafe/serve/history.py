"""The fits that were made while a model was served, and how its held-out accuracy moved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cafe.serve.looks import Look
from cafe.store import utc_now
from cafe.store.files import append_lines

HISTORY = "history.jsonl"
"""In the model's folder: a line for each fit."""


@dataclass(frozen=True)
class FitNote:
    """A fit, and what it changed.

    Attributes
    ----------
    created : str
    images, corrections : int
        Labelled images, and how many labels are not the dataset's.
    accuracy, low, high : float or None
        Held-out estimate in percent with its 95 % interval.
    words : str
        The same in words.
    before : float or None
        Held-out accuracy of the fit before, in percent, judged by the labels of this one.
    """

    created: str
    images: int
    corrections: int
    accuracy: float | None
    low: float | None
    high: float | None
    words: str
    before: float | None = None

    @classmethod
    def of(cls, look: Look, before: Look | None, corrections: int) -> FitNote:
        """What is noted of a fit that follows another."""
        estimate = look.fitted.estimate
        return cls(
            utc_now(),
            sum(look.fitted.images),
            corrections,
            estimate.accuracy if estimate else None,
            estimate.low if estimate else None,
            estimate.high if estimate else None,
            estimate.words if estimate else "not known",
            before.accuracy(look.y) if before else None,
        )


def note_fit(folder: Path, note: FitNote) -> None:
    """Append a fit to the history of a model."""
    append_lines(folder / HISTORY, [json.dumps(vars(note))])


def read_history(folder: Path) -> list[FitNote]:
    """The fits of a model, the first first; lines that are torn are left out."""
    path, notes = folder / HISTORY, list[FitNote]()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            notes.append(FitNote(**json.loads(line)))
        except (ValueError, TypeError):  # torn, or of another cafe
            continue
    return notes
