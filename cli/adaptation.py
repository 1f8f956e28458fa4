"""`cafe predict --adapt`: its options, and the line that says what it looks at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from cafe.errors import InputError, counted

from .output import note

if TYPE_CHECKING:
    from cafe.inference.adaptation import Adaptation
    from cafe.results.saved_head import SavedHead

AdaptName = Annotated[
    Literal["none", "tda", "oga", "incpl"],
    Option(
        "--adapt",
        help="Adapt while predicting: tda and oga learn from the images one after another, incpl "
        "tunes each with labelled images.",
    ),
]
State = Annotated[
    Path | None,
    Option(metavar="FILE", help="Of tda and oga: keep what is learned in this file between calls."),
]


def open_adaptation(
    saved: SavedHead, name: str, file: Path, cache: Path | None, state: Path | None
) -> Adaptation | None:
    """The adaptation that is asked for, with a line that says what it looks at."""
    if name == "none":
        if state is not None:
            raise InputError("--state keeps what --adapt tda or oga learns; give one of them too.")
        return None
    from cafe.inference.adaptation import StreamAdaptation
    from cafe.inference.adaptation import open_adaptation as run

    found = run(saved, name, file=file, cache=cache, state=state)  # type: ignore[arg-type]
    if isinstance(found, StreamAdaptation):
        seen = found.stream.seen
        before = f"{counted(seen, 'image')} before and " if seen else ""
        note(f"adapted by {name}: transductive, learns from {before}these, in their order.")
    else:
        note(f"adapted by {name}: each image by itself, with labelled images as its context.")
    return found
