"""JSON files as types with bounds: the one place that turns a run's files to values and back.

A field that has its default is not written. A file is read strictly: a value of another type or
out of bounds is one error that names file and field.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from cafe.errors import LONGEST_NAME, InputError, raise_as, visible

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)] | Literal["all"]
Index = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
ClassName = Annotated[str, Field(max_length=LONGEST_NAME)]
Name = Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]
"""Part of the name of a file: it must not lead out of the run's folder."""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # built once: it compiles a schema


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass as JSON values."""
    kind: Any = type(value)
    values: dict[str, Any] = _adapter(kind).dump_python(value, mode="json", exclude_defaults=True)
    return values


def from_json(kind: Callable[..., T], text: bytes | str, path: Path) -> T:
    """JSON text as a type; `path` is where it was read, for the error.

    Raises
    ------
    InputError
        If a value has another type or is out of bounds; file and field are named.
    """
    with _named(path):
        value: T = _adapter(kind).validate_json(text, strict=True)
    return value


def check_json(kind: Any, value: Any, path: Path) -> None:
    """Check JSON values that are read already; see `from_json`."""
    with _named(path):
        _adapter(kind).validate_python(value, strict=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what pydantic says into one line that names file and field."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = visible(".".join(map(str, first["loc"])))
        where = f" at '{place}'" if place else ""
        raise InputError(f"'{path}' is damaged{where}: {first['msg']}; run it again.") from None


def read_text(path: Path) -> bytes:
    """The bytes of a file of a run; an `InputError` where it cannot be read, or is none."""
    with raise_as(InputError, f"cannot read '{path}'"):
        if not path.is_file() and path.exists():  # a pipe would be waited for, a device has no end
            raise OSError(errno.EINVAL, "it is no file")
        return path.read_bytes()
