"""The help of a command as Markdown whose lines wrap on any screen, for the site."""

from __future__ import annotations

import re
from html import escape

_ENTRY = re.compile(r"  (?P<name>\S+(?: \S+)*)(?: {2,}(?P<text>.*))?")
_CODE_ENDS = "\n```"
_CUT = re.compile(r"\w-$")  # a word that a terminal breaks at its hyphen
_SECTION = re.compile(r"(Arguments|Options|Commands):")


def help_as_lists(text: str) -> str:
    """Options and commands as lists, the usage and the examples as code, all else as it is."""
    made, section = list[str](), ""
    for line in text.splitlines():
        entry = _ENTRY.fullmatch(line)
        if match := _SECTION.fullmatch(line):
            section = match[1]
            made.append(f"**{section}**\n")
        elif not line:
            section = ""
            made.append("")
        elif section and entry:
            made.append(f"- `{entry['name']}`: {_words(entry['text'] or '')}".rstrip())
        elif section:
            made[-1] += f"{'' if _CUT.search(made[-1]) else ' '}{_words(line.strip())}"
        elif made and made[-1].endswith(_CODE_ENDS):
            made[-1] = f"{made[-1].removesuffix(_CODE_ENDS)} {line.strip()}{_CODE_ENDS}"
        else:
            made.append(_plain(line.strip()))
    return "\n".join(made)


def _plain(line: str) -> str:
    """A line outside of the lists."""
    for word in ("Usage: ", "Example: ", "Start with: "):
        if line.startswith(word):
            title = "" if word == "Usage: " else f"{word.strip()}\n\n"
            return f"{title}```text\n{line.removeprefix(word)}{_CODE_ENDS}"
    return _words(line)


def _words(text: str) -> str:
    return re.sub(r"([*_\[\]`])", r"\\\1", escape(text, quote=False))
