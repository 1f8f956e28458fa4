"""What can go wrong, as a tree, and how names are shown in messages; knows nothing else of cafe.

CafeError
├── InputError            (ValueError)         an argument that makes no sense
│   └── UnknownNameError  (LookupError)        a name that is not in a list; suggests the nearest
├── DatasetError          (ValueError)         files on disk that are not a usable dataset
│   └── MissingFilesError (FileNotFoundError)  a split names images that are not there
├── ImageError            (OSError)            one image that cannot be read
├── CacheError            (OSError)            the feature cache
│   ├── CacheNotFoundError (FileNotFoundError)
│   ├── CacheFormatError  (ValueError)         not a cafe file, truncated, or a newer format
│   └── CacheMismatchError (ValueError)        a cache made under another key
├── BusyError             (BlockingIOError)    another process writes the same file
├── WeightsError          (OSError)            an encoder's weights are not available
└── DeviceError           (RuntimeError)       an accelerator that is asked for and absent

Every error is a `CafeError` and also the builtin that it resembles. A message is one line: what was
asked, what was found, what to do next.
"""

from __future__ import annotations

import copyreg
import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What in a text steers a terminal instead of being shown: control characters, line ends, marks
that turn the direction of writing, and bytes that are no text."""


def visible(text: str) -> str:
    r"""A text as one line that a terminal shows and does not obey: `\x1b[2J`, `\n`, `\u202e`."""
    return STEERING.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file's name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()


def counted(number: int | str, noun: str, plural_verb: str = "") -> str:
    """A number, or several in a text, with a noun and verb: `1 image has`, `all classes have`."""
    plural = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    counted_ = f"{number if isinstance(number, str) else f'{number:,}'} {noun}{plural}"
    return f"{counted_} {verb(number, plural_verb)}" if plural_verb else counted_


def verb(number: int | str, plural: str) -> str:
    """The verb that goes with a number: `is` with 1, else `are`."""
    singular = {"are": "is", "have": "has", "were": "was"}.get(plural, f"{plural}s")
    return singular if number == 1 else plural


def how_to_install(extra: str) -> str:
    """How to get what an extra of cafe needs: as published, and in a folder of its source."""
    return f"pip install 'cafe-clip[{extra}]', or in cafe's source folder pip install '.[{extra}]'"


LONGEST_NAME = 1000
"""Bytes of UTF-8 that the name of a class may have, in every file that is read."""


def is_utf8(text: str) -> bool:
    """Tell whether a text holds no undecodable bytes (which Python keeps as lone surrogates)."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")


def raw_name(name: str) -> bytes:
    """The bytes of a file's name, whether they are UTF-8 or not."""
    return name.encode("utf-8", "surrogateescape")


def escape_bytes(name: str) -> str:
    r"""A file's name as text that is UTF-8, from which the name can be had back.

    A byte that is not UTF-8, which Python keeps as a lone surrogate, becomes `\xe9`. In a name with
    such a byte, or with what looks like this escape, a backslash is doubled. Others stay as they
    are.
    """
    if is_utf8(name) and not _ESCAPE.search(name):
        return name
    try:
        raw = raw_name(name)
    except UnicodeEncodeError:  # it is no file's name
        return name.encode("utf-8", "backslashreplace").decode()
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


_ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def unescape_bytes(text: str) -> str:
    """A file's name, of what `escape_bytes` made of it."""
    if not _ESCAPE.search(text):
        return text
    raw = _ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", text.encode())
    return raw.decode("utf-8", "surrogateescape")


def one_line(error: BaseException) -> str:
    """The message of any error on one line, cut to 200 characters; its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class CafeError(Exception):
    """Anything that cafe reports about its input, its files or its machine."""


class InputError(CafeError, ValueError):
    """An argument that makes no sense (a ratio of 2, no seeds, ...)."""


class UnknownNameError(InputError, LookupError):
    """A name that is not in a list.

    Parameters
    ----------
    kind : str
        What was named: "dataset", "method", ...
    name : str
        The name as given.
    known : iterable of str
        Every name that would do; the nearest are suggested.
    hint : str
        What to do next, appended to the message.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        elif len(names) <= 20:
            advice = f"known: {', '.join(names)}."
        else:
            advice = f"none of {len(names)} known names is like it."
        super().__init__(" ".join(filter(None, [f"unknown {kind} '{name}';", advice, hint])))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its message: what it was made from is gone."""
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]


class DatasetError(CafeError, ValueError):
    """Files on disk that are not a usable dataset."""


class MissingFilesError(DatasetError, FileNotFoundError):
    """A split names images that are not there."""


class ImageError(CafeError, OSError):
    """One image that cannot be read; the message is the reason alone."""


class CacheError(CafeError, OSError):
    """The feature cache cannot be read or written."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """No such cache."""


class CacheFormatError(CacheError, ValueError):
    """Not a cafe file, a truncated one, or one of a newer format."""


class CacheMismatchError(CacheError, ValueError):
    """A cache that was made under another key than the one asked for."""


class BusyError(CafeError, BlockingIOError):
    """Another process writes the same file."""


class WeightsError(CafeError, OSError):
    """The weights of an encoder are not available."""


class DeviceError(CafeError, RuntimeError):
    """An accelerator that was asked for and is absent."""


@contextmanager
def raise_as(
    kind: type[CafeError],
    problem: str,
    advice: str = "",
    of: type[Exception] | tuple[type[Exception], ...] = OSError,
) -> Iterator[None]:
    """Raise what another library raises as an error of cafe, `problem (reason); advice.`

    Parameters
    ----------
    kind : type of CafeError
    problem : str
        What failed, in words.
    advice : str
        What to do next.
    of : type or tuple of type
        Errors that are meant; those of cafe itself pass unchanged.
    """
    try:
        yield
    except CafeError:
        raise
    except of as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        advice = f"; {advice}" if advice else ""
        raise kind(f"{problem} ({reason}){advice}.") from error
