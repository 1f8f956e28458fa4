"""Names of files for libraries that take UTF-8 alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafe.errors import is_utf8


@contextmanager
def utf8_path(path: Path | str) -> Iterator[Path | str]:
    """A name under which torch and safetensors can open a file, of whatever name it has itself."""
    if is_utf8(str(path)):
        yield path
    else:
        with Path(path).open("rb") as stream:
            yield f"/dev/fd/{stream.fileno()}"
