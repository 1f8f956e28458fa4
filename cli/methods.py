"""`cafe methods`."""

from __future__ import annotations

import json
from inspect import getdoc
from typing import Annotated

import typer

from cafe.methods.catalog import CATALOG, find_method

from .options import Json


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="[METHOD]",
            help="Show what this one does and its settings [default: list all].",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods with one line and the source of each.

    Example: cafe methods
    """
    kinds = [find_method(name) for name in ([method] if method else CATALOG)]
    facts = ("name", "summary", "source", "needs")
    rows = [[getattr(kind, fact) for fact in facts] for kind in kinds]
    if as_json:
        described = [
            {**dict(zip(facts, row, strict=True)), "settings": kind.settings()}
            for row, kind in zip(rows, kinds, strict=True)
        ]
        typer.echo(json.dumps(described))
    elif method:
        names = ", ".join(kinds[0].settings()) or "none"
        typer.echo(f"{getdoc(kinds[0])}\n\nSettings: {names}\nSource: {kinds[0].source}")
    else:
        from .tables import print_table

        print_table(["method", "what it is", "source", "needs"], rows)
