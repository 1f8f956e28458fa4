"""`cafe methods`."""

from __future__ import annotations

import json

import typer

from cafe.methods.catalog import CATALOG, find_method

from .options import Json


def methods(as_json: Json = False) -> None:
    """List the methods with one line and the source of each.

    Example: cafe methods
    """
    facts = ("name", "summary", "source", "needs")
    rows = [{fact: getattr(find_method(name), fact) for fact in facts} for name in CATALOG]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from .tables import print_table

    print_table(
        ["method", "what it is", "source", "needs"],
        [list(row.values()) for row in rows],
    )
