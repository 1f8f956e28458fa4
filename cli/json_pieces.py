"""JSON in pieces, so that a long list is never in memory as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

_ROWS = 4096  # encoded at a time


def json_pieces(values: Any, encode: Callable[[Any], str]) -> Iterator[str]:
    """A value as JSON; iterators in a dict become lists, some rows at a time."""
    if not isinstance(values, dict) or not any(isinstance(v, Iterator) for v in values.values()):
        yield encode(values)
        return
    before = "{"
    for name, value in values.items():
        yield f"{before}{encode(name)}: "
        yield from _list(value, encode) if isinstance(value, Iterator) else [encode(value)]
        before = ", "
    yield "}"


def _list(rows: Iterator[Any], encode: Callable[[Any], str]) -> Iterator[str]:
    before = "["
    while some := list(islice(rows, _ROWS)):
        yield before + encode(some)[1:-1]
        before = ", "
    yield "]" if before == ", " else "[]"
