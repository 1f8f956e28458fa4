"""What a source of images holds and cafe does not use: counted, and told in one line each."""

from __future__ import annotations

from collections import Counter

from cafe.errors import escape_bytes

_SHOWN = 5  # names of a kind


class LeftOut:
    """Counts what is left out, by its kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, Counter[str]] = {}

    def add(self, kind: str, name: str = "", count: int = 1) -> None:
        """Count something; `name` tells it from others of its kind."""
        self._kinds.setdefault(kind, Counter())[name] += count

    def lines(self) -> list[str]:
        """One line for each kind: `left out: files of no image format (3: 2 .txt, .xml)`."""
        return [
            f"left out: {kind} ({names.total():,}{_in_words(names)})"
            for kind, names in sorted(self._kinds.items())
        ]


def _in_words(names: Counter[str]) -> str:
    listed = [
        escape_bytes(name) if count == 1 else f"{count:,} {escape_bytes(name)}"
        for name, count in names.most_common(_SHOWN)
        if name
    ]
    more = ", ..." if len(names) > _SHOWN else ""
    return f": {', '.join(listed)}{more}" if listed else ""
