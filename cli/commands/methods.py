"""`cafe methods`."""

from __future__ import annotations

from inspect import getdoc
from typing import Annotated

from typer import Argument

from cafe.methods.catalog import CATALOG, find_method

from .. import completion
from .. import options as opt
from ..output import print_json, print_table, say

MethodName = Annotated[
    str | None,
    Argument(
        metavar="[METHOD]",
        help="Show what this one does and its settings [default: list all].",
        autocompletion=completion.methods,
    ),
]


def methods(method: MethodName = None, as_json: opt.Json = False) -> None:
    """List the methods with one line and the source of each.

    Example: cafe methods
    """
    kinds = [find_method(name) for name in ([method] if method else CATALOG)]
    facts = ("name", "summary", "source", "needs")
    rows = [{fact: getattr(kind, fact) for fact in facts} for kind in kinds]
    if as_json:
        settings = ({"settings": kind.settings()} for kind in kinds)
        print_json([row | more for row, more in zip(rows, settings, strict=True)])
    elif method:
        names = ", ".join(kinds[0].settings()) or "none"
        say(*(getdoc(kinds[0]) or "").splitlines(), "")
        say(f"Settings: {names}", f"Source: {kinds[0].source}")
    else:
        headers = ["method", "what it is", "source", "needs"]
        print_table(headers, [list(row.values()) for row in rows])
