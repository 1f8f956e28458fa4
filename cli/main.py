"""The `cafe` application: its commands, and what becomes of errors."""

from __future__ import annotations

import io
import re
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.main

from cafe.errors import CafeError, InputError, one_line

from .commands import (
    cache,
    cache_import,
    cache_verify,
    check,
    compare,
    datasets,
    demo,
    export,
    extract,
    fit,
    grid,
    meta_train,
    methods,
    next_images,
    predict,
    relabel,
    report,
    runs,
    serve,
    train,
)
from .output import READER_GONE, note, prepare_streams, say
from .signals import on_stop, stopping_on_signals
from .usage import usage_line

app = typer.Typer(
    help="Adapt CLIP to a new visual task in seconds: encode once, train heads on cached features.",
    epilog="Start with: cafe demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)
cache_app = typer.Typer(
    help="List, show, check, import, export, merge and remove caches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
runs_app = typer.Typer(
    help="List, show and remove saved runs.", no_args_is_help=True, rich_markup_mode=None
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"cafe {version('cafe-clip')}")
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
app.command("train")(train.train)
app.command("extract")(extract.extract)
app.command("fit")(fit.fit)
app.command("grid")(grid.grid)
app.command("compare")(compare.compare)
app.command("meta-train")(meta_train.meta_train)
app.command("predict")(predict.predict)
app.command("next")(next_images.next_)
app.command("serve")(serve.serve)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("check")(check.check)
app.command("relabel")(relabel.relabel)
app.command("datasets")(datasets.datasets)
app.command("methods")(methods.methods)
app.add_typer(cache_app, name="cache")
cache_app.command("ls")(cache.list_)
cache_app.command("show")(cache.show)
cache_app.command("import")(cache_import.import_)
cache_app.command("verify")(cache_verify.verify)
cache_app.command("rm")(cache.remove)
cache_app.command("prune")(cache.prune)
cache_app.command("export")(cache.export)
cache_app.command("merge")(cache.merge)
app.add_typer(runs_app, name="runs")
runs_app.command("ls")(runs.list_)
runs_app.command("show")(runs.show)
runs_app.command("rm")(runs.remove)


def main() -> None:
    """Run the application; an error of the user's is one line on stderr and an exit code."""
    prepare_streams()
    with stopping_on_signals():
        code = _run()
    if code:
        sys.exit(code)


def _run() -> int:
    """Run the application and return its exit code."""
    try:
        with on_stop("what was saved is kept."):
            return _call()
    except typer.Exit as stop:
        return stop.exit_code
    except CafeError as error:
        note(f"cafe: {name_options(str(error))}")
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:  # a folder that cannot be looked into, a disk that fails
        note(f"cafe: {error.filename or 'the system'}: {error.strerror or error}.")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        note(f"cafe: out of memory: {one_line(error)} End what else uses it, or ask for less.")
        return 1
    except _UsageError as error:
        note(*_usage(error))
        return int(error.exit_code)
    except typer.Abort:
        note("cafe: nothing was done.")
        return 1


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's, numpy's, or one of torch's, which is not imported here."""
    allocator = "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or allocator or type(error).__name__ == "OutOfMemoryError"


def _call() -> int:
    stdout = sys.stdout
    try:
        return app(standalone_mode=False, prog_name="cafe") or 0
    except SystemExit:
        if sys.stdout is not stdout:  # Typer put another there: nobody reads its help any more
            return READER_GONE
        raise
    except OSError:
        say()  # fails if it is stdout that cannot be written: Typer prints the help by itself
        raise


def _usage(error: Any) -> list[str]:
    """One line; of a group of commands without a command its help."""
    if type(error).__name__ != "NoArgsIsHelpError":
        return [usage_line(error, typer.main.get_command(app), sys.argv[1:])]
    page = io.StringIO()
    error.show(page)
    return page.getvalue().splitlines()


_UsageError: Any = typer.BadParameter.__base__  # click's, or Typer's own copy of it


_ARGUMENT = re.compile(r"""\b([a-z_]+)=(?:(["'])(?P<text>.*?)\2|(?P<word>[\w./-]*\w)|)""")
_SUBJECT = re.compile(r"[a-z_]+(?= must be )")
_OTHER_NAMES = {"max_runs=None": "--yes"}


def name_options(message: str) -> str:
    """Say `--validation cv` where a message of the library says `validation="cv"`.

    And `--top must be` where one begins with `top must be`.
    """
    options = _option_names(typer.main.get_command(app))

    def option(match: re.Match[str]) -> str:
        name = f"--{match[1].replace('_', '-')}"
        value = match["text"] or match["word"]
        if name not in options:
            return _OTHER_NAMES.get(match[0], match[0])
        return name if value in (None, "True") else f"{name} {value}"

    named = _ARGUMENT.sub(option, message)
    subject = _SUBJECT.match(named)
    name = f"--{subject[0].replace('_', '-')}" if subject else ""
    return f"{name}{named[len(name) - 2 :]}" if name in options else named


def _option_names(command: Any) -> set[str]:
    """The options of a command and of all commands below it."""
    below = map(_option_names, getattr(command, "commands", {}).values())
    return {name for option in command.params for name in option.opts}.union(*below)


if __name__ == "__main__":
    main()
