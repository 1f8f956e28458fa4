"""What `cafe.relabel` did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafe.errors import escape_bytes


@dataclass(frozen=True)
class Relabelled:
    """What was relabelled, or would be.

    Attributes
    ----------
    target : Path
        The list that was edited, or the folder that images are moved in.
    changes : list of (str, str, str)
        Image, class before and class after; of a folder, image, path before and path after.
    done : bool
        Whether it was done. Images of a folder are moved with `yes` only.
    undo : Path or None
        The file that takes it back.
    left : list of str
        Rows that were left, with the reason, a line each.
    """

    target: Path
    changes: list[tuple[str, str, str]]
    done: bool
    undo: Path | None = None
    left: list[str] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "target": escape_bytes(str(self.target)),
            "changes": [
                dict(zip(("id", "from", "to"), map(escape_bytes, c), strict=True))
                for c in self.changes
            ],
            "done": self.done,
            "undo": None if self.undo is None else escape_bytes(str(self.undo)),
            "left": self.left,
        }
