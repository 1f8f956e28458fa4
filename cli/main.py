"""The `cafe` application: its commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from cafe.errors import CafeError, InputError

from . import (
    cache,
    compare,
    datasets,
    demo,
    export,
    extract,
    fit,
    grid,
    meta,
    methods,
    predict,
    report,
)

app = typer.Typer(
    help="Adapt CLIP to a new visual task in seconds: encode once, train heads on cached features.",
    epilog="Start with: cafe demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cafe {version('cafe-clip')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Options of `cafe` itself."""


app.command("demo")(demo.demo)
app.command("extract")(extract.extract)
app.command("fit")(fit.fit)
app.command("grid")(grid.grid)
app.command("compare")(compare.compare)
app.command("meta-train")(meta.meta_train)
app.command("predict")(predict.predict)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("datasets")(datasets.datasets)
app.command("methods")(methods.methods)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Run the application; an error of the user's is one line on stderr and an exit code."""
    try:
        app()
    except CafeError as error:
        typer.echo(f"cafe: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:  # `cafe ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
