"""What a word that the command line does not know is answered with: one line."""

from __future__ import annotations

import re
from typing import Any

_OF_AN_OPTION = re.compile(r"Invalid value for (.+?): (?:Value error, )?(.*)", re.DOTALL)


def usage_line(error: Any) -> str:
    """Which option, what was given, what is allowed, and where help is.

    Parameters
    ----------
    error : UsageError
        Of click, or of Typer's own copy of it, whose options are read by pydantic.
    """
    said = " ".join(error.format_message().split()).removesuffix(".")
    if match := _OF_AN_OPTION.fullmatch(said):
        name = match[1].split("' / '")[0].strip("'")
        said = f"{name}: {_with_value(error, match[2])}"
    elif not said.startswith("-"):
        said = said[:1].lower() + said[1:]
    if error.ctx is not None:
        said += f"{' See' if said.endswith('?') else '; see'} '{error.ctx.command_path} --help'"
    return f"cafe: {said}."


def _with_value(error: Any, why: str) -> str:
    """`'x' should be a valid integer`, where pydantic calls the value `Input`."""
    given: list[Any] = getattr(error.__cause__, "errors", list)()
    if given and why.startswith("Input "):
        return f"{given[0]['input']!r} {why.removeprefix('Input ').partition(',')[0]}"
    return why
