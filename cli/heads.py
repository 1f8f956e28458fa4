"""Notes on the head that a command takes: which it is, and whether it is calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import note

if TYPE_CHECKING:
    from cafe.results.head_selection import ChosenResult
    from cafe.results.runs import ChosenHead
    from cafe.results.saved_head import SavedHead


def note_choice(chosen: ChosenHead | ChosenResult) -> None:
    """Note which head was taken and what is known of it."""
    if chosen.words:
        note(f"{chosen.words}{'; --method picks another' if chosen.had_choice else ''}")


def note_calibration(saved: SavedHead) -> None:
    """Note where a head's probabilities are not calibrated, and why."""
    if saved.temperature is None:
        note(f"probabilities are not calibrated: {_why_not(saved)}")


def _why_not(saved: SavedHead) -> str:
    about = saved.about
    if not about.get("calibration"):
        return "this head was saved without a temperature."
    if about.get("shots") == 1:
        return "one shot a class leaves no image to hold out."
    return (
        "no class had two images, one of them to hold out, or an older 'cafe compare' made the "
        "run, which fitted no temperature; fit again."
    )
