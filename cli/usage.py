"""What a word that the command line does not know is answered with: one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_OF_AN_OPTION = re.compile(r"Invalid value for (.+?): (?:Value error, )?(.*)", re.DOTALL)


def usage_line(error: Any, root: Any, words: Sequence[str]) -> str:
    """Which option, what was given, what is allowed, and where help is.

    Parameters
    ----------
    error : UsageError
        Of click, or of Typer's own copy of it, whose options are read by pydantic.
    root : Group
        `cafe` itself, a command of click.
    words : sequence of str
        What stands behind it on the command line.
    """
    said = " ".join(error.format_message().split()).removesuffix(".")
    if match := _OF_AN_OPTION.fullmatch(said):
        name = match[1].split("' / '")[0].strip("'")
        said = f"{name}: {_with_value(error, match[2])}"
    elif not said.startswith("-"):
        said = said[:1].lower() + said[1:]
    path = error.ctx.command_path if error.ctx else _path(root, words)
    return f"cafe: {said}{' See' if said.endswith('?') else '; see'} '{path} --help'."


def _path(command: Any, words: Sequence[str]) -> str:
    """`cafe cache ls`: the command that is meant, where an error does not know it."""
    path = ["cafe"]
    for word in words:
        if word not in (commands := getattr(command, "commands", {})):
            break
        command = commands[word]
        path.append(word)
    return " ".join(path)


def _with_value(error: Any, why: str) -> str:
    """`'x' should be a valid integer`, where pydantic calls the value `Input`."""
    given: list[Any] = getattr(error.__cause__, "errors", list)()
    if given and why.startswith("Input "):
        return f"{given[0]['input']!r} {why.removeprefix('Input ').partition(',')[0]}"
    return why
