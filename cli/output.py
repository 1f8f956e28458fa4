"""What a command prints: its result on stdout, a table or JSON, and notes on stderr.

All that a command prints passes here. Names of files, classes and datasets come from elsewhere:
what in them would steer a terminal is shown escaped. A stream that is not UTF-8 gets ASCII for what
it cannot show. A stream that is closed or full is one line, or silence where that is the stream.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import typer

from cafe.errors import STEERING, CafeError, visible

from .json_pieces import json_pieces

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_PIPED_WIDTH = 160  # a table in a file is not folded to a terminal's 80 columns
READER_GONE = 141  # what a shell says of a program that SIGPIPE ended
_PLAIN = {"±": "+-", "…": "...", "–": "-", "—": "-", "·": "|", "×": "x", "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that a stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    rest = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("unicode_escape").decode() for c in rest), error.end


codecs.register_error("cafe.plain", _plain)


def prepare_streams() -> None:
    """Make sure that each standard stream is there, and that no character is too much for it."""
    # a stream that was closed stays unwritable; its number must not go to a file of ours
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cafe.plain")


def say(*lines: str) -> None:
    """Print lines of the result, on stdout."""
    _write(sys.stdout, "".join(f"{shown(line)}\n" for line in lines))


def note(*lines: str) -> None:
    """Print lines beside the result, on stderr."""
    with contextlib.suppress(CafeError, SystemExit):  # there is nobody to tell
        _write(sys.stderr, "".join(f"{shown(line, sys.stderr)}\n" for line in lines))


def shown(text: str, stream: TextIO | None = None) -> str:
    """A text as a stream, by default stdout, will show it, so that its width is known."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    return visible(text).encode(encoding, "cafe.plain").decode(encoding)


def can_show(text: str) -> bool:
    """Whether stdout takes a text as it is."""
    return shown(text) == text


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # what is left in the buffer must not fail a second time when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):  # `cafe ... | head`: the reader has seen enough
            raise SystemExit(READER_GONE) from None
        raise CafeError(
            f"cannot write to standard output ({error.strerror}); what was saved is kept."
        ) from error


def print_json(values: Any, *, readable: bool = False) -> None:
    """Print the result as one line of JSON; `readable` keeps letters that are not ASCII.

    Iterators in a dict are written piece by piece, as lists.
    """
    encode = json.JSONEncoder(ensure_ascii=not readable or not can_show("é漢")).encode
    for text in json_pieces(values, encode):
        # JSON's own escapes, which programs read back
        _write(sys.stdout, STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text))
    _write(sys.stdout, "\n")


def print_saved_json(values: Any, folder: Path | None) -> None:
    """Print the result as JSON, and note where it is saved."""
    print_json(values)
    note(f"saved to {folder}")


def print_csv(values: Iterable[Any]) -> None:
    """Print a row of CSV: for a program as it is, on a terminal with escapes."""
    row = map(str, values)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        map(visible, row) if sys.stdout.isatty() else row
    )
    _write(sys.stdout, text.getvalue())


def megabytes(file: Path | int) -> str:
    """`1.5 MB`, of a file or of a number of bytes; `12.3 kB` where it is small."""
    size = file if isinstance(file, int) else file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def confirm_removal(
    paths: Sequence[Path], *, yes: bool, error: type[CafeError] = CafeError
) -> None:
    """Ask whether to remove what is named; where nobody can answer only `yes` removes it."""
    names = ", ".join(f"'{path}'" for path in paths)
    question = visible(f"Remove {names}?")
    if not yes and not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise error(
            f"{names} {'is' if len(paths) == 1 else 'are'} kept; --yes removes it without asking."
        )


def styled(text: str, style: str = "") -> Text:
    """A cell, header or title of a table of rich, which reads no markup in it."""
    from rich.text import Text

    return Text(shown(text), style, overflow="fold")


def print_wide(*content: RenderableType) -> None:
    """Print tables or texts of rich, wide where the output is piped."""
    from rich.console import Console

    console = Console(width=terminal_width())
    with console.capture() as captured:
        console.print(*content, sep="\n")
    _write(sys.stdout, captured.get())


def terminal_width() -> int:
    """Columns of the terminal, or those of a table in a file."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else _PIPED_WIDTH


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """Print a table; where it is too narrow for names and numbers, a paragraph for each row.

    Parameters
    ----------
    headers : sequence of str
    rows : sequence of sequence of str
    numbers : sequence of int
        Columns that are set flush right.
    bold : collection of (int, int)
        Cells (row, column) that stand out: bold, or with a star where the output is piped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    star = "" if sys.stdout.isatty() else "*"

    def cell(text: str, best: bool) -> Text:
        return styled(star + text, "bold") if best else styled(text)

    places = ((y, enumerate(row)) for y, row in enumerate(rows))
    cells = [[cell(text, (y, x) in bold) for x, text in row] for y, row in places]
    widths = _fixed_widths(headers, rows, numbers, terminal_width())
    if widths is None:
        print_wide(styled(headers[0], "bold"), *(_paragraph(headers, row) for row in cells))
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for number, (header, width) in enumerate(zip(headers, widths, strict=True)):
        side: Literal["left", "right"] = "right" if number in numbers else "left"
        table.add_column(styled(header), justify=side, width=width)
    for row in cells:
        table.add_row(*row)
    print_wide(table)


_GAP = 3  # between columns


def _fixed_widths(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int], width: int
) -> list[int | None] | None:
    """Widths of the columns in a terminal; None for one of prose, and for all if they do not fit.

    Only prose is wrapped, in what the others leave of the terminal.
    """
    from rich.cells import cell_len

    fixed, needed, natural = list[int | None](), 0, 0
    for number, header in enumerate(headers):
        texts = [shown(row[number]) for row in rows]
        longest = max(map(cell_len, texts), default=0)
        is_prose = number and number not in numbers and any(" " in text for text in texts)
        words = " ".join([shown(header), *(texts if is_prose else ())]).split()
        least = max([0 if is_prose else longest + 1, *map(cell_len, words)])  # with a star
        fixed.append(None if is_prose else least)
        needed += least + _GAP
        natural += max(longest + 1, cell_len(shown(header))) + _GAP
    if natural <= width:
        return [None] * len(fixed)
    return fixed if needed <= width else None


def _paragraph(headers: Sequence[str], row: Sequence[Text]) -> RenderableType:
    """The first cell of a row on a line, and below it the others with their headers."""
    from rich.console import Group
    from rich.padding import Padding

    first, *others = row
    named = zip(headers[1:], others, strict=True)
    rest = [styled(f"{header} ").append_text(cell) for header, cell in named if cell.plain]
    return Group(first, Padding(styled(", ").join(rest), (0, 0, 0, 4)))
