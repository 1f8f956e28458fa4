"""Reading text files, and quoting what is in them on one line of a message."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cafe.errors import LONGEST_NAME, CafeError, DatasetError, escape_bytes, is_utf8

_BYTES = dict.fromkeys(range(0xDC80, 0xDD00))
"""What Python keeps bytes of a file's name as that are not UTF-8."""


def quote(value: object) -> str:
    """A value as one short line of a message shows it."""
    is_name = isinstance(value, str) and not is_utf8(value)
    text = f"'{escape_bytes(str(value))}'" if is_name else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def quote_some(values: Iterable[object], limit: int = 3) -> str:
    """The first few of many values."""
    listed = list(values)
    return ", ".join(map(quote, listed[:limit])) + (", ..." if len(listed) > limit else "")


def clean_name(name: str) -> str:
    """Make a class name fit for prompts: underscores become spaces, runs of spaces one space."""
    return " ".join(name.replace("_", " ").split())


_JOINED = re.compile(r"(?:[A-Z][a-z]{2,}|[a-z]{3,})(?:[A-Z][a-z]+)+")
"""Words that are written as one; `McDonald` and `iPhone` are not."""


def in_words(name: str) -> str:
    """A class name as a prompt says it: words that are written as one apart, in lower case.

    Examples
    --------
    >>> in_words("AnnualCrop"), in_words("red_fox"), in_words("Labrador"), in_words("McDonald")
    ('annual crop', 'red fox', 'Labrador', 'McDonald')
    """
    name = clean_name(name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower() if _JOINED.fullmatch(name) else name


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as they are shown: with its index, where several classes have one.

    Examples
    --------
    >>> distinct_names(["crane", "ibis", "crane"])
    ('crane (0)', 'ibis', 'crane (2)')
    """
    counts = Counter(names)
    return tuple(f"{n} ({i})" if counts[n] > 1 else n for i, n in enumerate(names))


def clean_path(path: Any, what: str) -> str:
    """Check that a path of a list stays below its root.

    Parameters
    ----------
    path : object
        The path as read; anything but a string is refused.
    what : str
        The list and the place in it, for the message.

    Returns
    -------
    str
        The path with forward slashes.

    Raises
    ------
    DatasetError
        If it is empty, absolute, leads upwards, or cannot be a file's name.
    """
    if not isinstance(path, str) or not path.strip():
        raise DatasetError(f"{what}: {quote(path)} is not the path of an image.")
    if "\0" in path or not is_utf8(path.translate(_BYTES)):
        raise DatasetError(f"{what}: {quote(path)} cannot be a file's name; rename the file.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", path):
        raise DatasetError(
            f"{what}: {quote(path)} is a URL, and cafe reads files; download the images and name "
            "them relative to the root."
        )
    parts = path.replace("\\", "/").split("/")
    if parts[0] == "" or re.match(r"[A-Za-z]:$", parts[0]):
        raise DatasetError(f"{what}: {quote(path)} is absolute; name images relative to the root.")
    if ".." in parts:
        raise DatasetError(f"{what}: {quote(path)} leads out of its root; take the '..' out.")
    return "/".join(part for part in parts if part not in ("", "."))


def name_fault(name: str) -> str:
    """Why a text cannot be the name of a class, for a message; "" where it can."""
    if not is_utf8(name):
        return f"{quote(name)} cannot be a class name, as it is not UTF-8; rename it"
    if not name.strip() or "\0" in name:
        return f"{quote(name)} cannot be a class name; give a word or more"
    size = len(name.encode())
    if size > LONGEST_NAME:
        return f"the class name {quote(name)} has {size:,} bytes; {LONGEST_NAME:,} is the most"
    return ""


def read_text(path: Path, error_class: type[CafeError] = DatasetError) -> str:
    """Read a file of UTF-8, or of what its byte order mark says; a failure is an `error_class`."""
    try:
        raw = path.read_bytes()
        # spreadsheets save "Unicode text" as UTF-16 with its mark; "utf-8-sig" drops that of UTF-8
        is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise error_class(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise error_class(f"cannot read {path}: {reason}.") from error
    if "\0" in text:
        raise error_class(f"{path} holds NUL characters; if it is UTF-16, save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON that has these members; of two of one name Python would take the last."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names {quote(twice)} twice")
    return members


def read_json(path: Path, error_class: type[CafeError] = DatasetError) -> Any:
    """Read a JSON file; a failure is an `error_class` of one line."""
    text = read_text(path, error_class)
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except json.JSONDecodeError as error:
        raise error_class(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        raise error_class(f"{path} is not usable JSON: {error}.") from None


def read_class_names(path: Path) -> tuple[str, ...] | dict[str, str]:
    """Read class names to use instead of a dataset's own.

    Parameters
    ----------
    path : Path
        Text with one name per line in the order of the labels; or JSON (`.json`): a list of names,
        or an object that maps old names to new ones.

    Returns
    -------
    tuple of str or dict of str to str
        What `load_dataset` takes as `class_names`.
    """
    if path.suffix.lower() != ".json":
        return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    content = read_json(path)
    names = content.values() if isinstance(content, dict) else content
    if not isinstance(content, dict | list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{path}: expected a list of names, or an object of old to new names.")
    return content if isinstance(content, dict) else tuple(content)
