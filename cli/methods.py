"""`cafe methods`."""

from __future__ import annotations

import json

import typer

from cafe.methods.catalog import CATALOG

from .options import Json


def methods(as_json: Json = False) -> None:
    """List the methods with one line and the source of each.

    Example: cafe methods
    """
    if as_json:
        rows = [
            {"name": e.name, "summary": e.summary, "source": e.source, "needs": e.needs}
            for e in CATALOG.values()
        ]
        typer.echo(json.dumps(rows))
        return
    from .tables import print_table

    print_table(
        ["method", "what it is", "source", "needs"],
        [[e.name, e.summary, e.source, e.needs] for e in CATALOG.values()],
    )
