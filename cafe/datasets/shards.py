"""Tar archives in the layout of WebDataset: the files of a sample share their name up to a dot.

A sample is an image (`000.jpg`) with its label in `000.cls` (a number or a name), or under `label`,
`cls` or `class_name` in `000.json`; without either, the folder that it lies in is its class.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.datasets.image_formats import known_suffixes
from cafe.datasets.image_list import Entry
from cafe.datasets.left_out import LeftOut
from cafe.datasets.open_image import MOST_FILE_BYTES
from cafe.datasets.packed_dataset import Place, Row, Stamp, file_stamp, split_word
from cafe.datasets.text_files import clean_path, quote, quote_some
from cafe.errors import DatasetError

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MOST_SHARDS = 100_000
_MOST_LABEL = 1 << 20  # bytes of a label
_LABELS = ("cls", "json")
_KEYS = ("label", "cls", "class_name", "class")
_BLOCK = 512


def expand(pattern: str) -> list[str]:
    """The names that a pattern means: `{000..009}` counts, `{a,b}` lists.

    Examples
    --------
    >>> expand("shards/{08..10}.tar")
    ['shards/08.tar', 'shards/09.tar', 'shards/10.tar']
    """
    parts: list[list[str]] = []
    at, total = 0, 1
    for match in _BRACES.finditer(pattern):
        first, last, words = match.groups()
        if words is None:
            numbers = range(int(first), min(int(last), int(first) + _MOST_SHARDS) + 1)
            choices = [f"{number:0{len(first)}d}" for number in numbers]
        else:
            choices = words.split(",")
        total *= len(choices)
        if not 0 < total <= _MOST_SHARDS:
            raise DatasetError(
                f"{quote(pattern)} means {'no file' if not total else 'too many files'}; write a "
                "range such as {000..009}."
            )
        parts += [[pattern[at : match.start()]], choices]
        at = match.end()
    return ["".join(words) for words in itertools.product(*parts, [pattern[at:]])]


@dataclass(frozen=True)
class Shard:
    """One archive, of which members are read by their place."""

    path: Path

    def read(self, place: int, size: int) -> bytes:
        """The bytes of a member."""
        with self.path.open("rb") as stream:
            stream.seek(place)
            return stream.read(size)

    def stamp(self) -> Stamp:
        """Times and inode of the archive."""
        return file_stamp(self.path)


def read_shards(paths: list[Path], left_out: LeftOut, *, allow_missing: bool) -> list[Row]:
    """List the labelled images of archives.

    Parameters
    ----------
    paths : list of Path
    left_out : LeftOut
        Counts what is left out.
    allow_missing : bool
        Go on without archives that are not there, and without the rest of one that ends early.

    Raises
    ------
    DatasetError
        If an archive is not there, is no tar, or ends early.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing and not (allow_missing and len(missing) < len(paths)):
        raise DatasetError(
            f"{len(missing):,} of {len(paths):,} shards are not there "
            f"({quote_some(map(str, missing))}); complete them, or go on without them "
            "(allow_missing=True)."
        )
    if missing:
        left_out.add("shards that are not there", missing[0].name, len(missing))
    names = [path.name for path in paths]
    rows: list[Row] = []
    for path in (path for path in paths if path not in missing):
        # two folders may hold shards of one name
        prefix = path.name if names.count(path.name) == 1 else str(path)
        rows += _read_shard(path, prefix.lstrip("/"), left_out, allow_missing=allow_missing)
    return rows


def _read_shard(
    path: Path, prefix: str, left_out: LeftOut, *, allow_missing: bool
) -> Iterator[Row]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    shard, split = Shard(path), split_word(path.name) or split_word(path.parent.name)
    try:
        for member in _members(path):
            name = clean_path(member.name, str(path))
            folder, slash, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            if key and not member.sparse and member.size <= MOST_FILE_BYTES:
                samples.setdefault(f"{folder}{slash}{key}", {})[suffix.lower()] = member
            else:
                left_out.add("members of shards that are hidden, sparse or too large", suffix)
    except _EndsEarlyError:
        whole = sum(map(_is_image, itertools.chain.from_iterable(samples.values())))
        if not allow_missing:
            raise DatasetError(
                f"{path} ends early, after {whole:,} whole images; fetch it again, or go on with "
                "what it has (allow_missing=True)."
            ) from None
        left_out.add("the rest of shards that end early", path.name)
    for key, members in samples.items():
        label = _label(shard, key, members)
        for suffix, member in members.items():
            if not _is_image(suffix):
                if suffix not in _LABELS:
                    left_out.add("members of shards that are no images", f".{suffix}")
            elif label is None:
                left_out.add("images of shards without a label", f".{suffix}")
            else:
                place = Place(shard, member.offset_data, member.size)
                yield Row(Entry(split, f"{prefix}/{key}.{suffix}", label), place)


class _EndsEarlyError(Exception):
    """An archive lacks its end."""


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files of an archive in order; raises `_EndsEarlyError` where it is cut."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    if member.offset_data + member.size > size:
                        raise _EndsEarlyError
                    yield member
            if archive.offset + _BLOCK > size:  # two empty blocks are the end
                raise _EndsEarlyError
    except tarfile.ReadError as error:
        if "unexpected end of data" in str(error):
            raise _EndsEarlyError from None
        raise DatasetError(
            f"{path} is no plain tar archive ({error}); unpack one that is compressed."
        ) from None
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"cannot read {path} ({error}); fetch it again.") from error


def _is_image(suffix: str) -> bool:
    return f".{suffix.rpartition('.')[2]}" in known_suffixes()


def _label(shard: Shard, key: str, members: Mapping[str, tarfile.TarInfo]) -> int | str | None:
    """The class of a sample: a number, a name, or None."""
    for suffix in (suffix for suffix in _LABELS if suffix in members):
        member = members[suffix]
        if member.size > _MOST_LABEL:
            raise DatasetError(f"{shard.path}: the label of {quote(key)} is too long.")
        text = shard.read(member.offset_data, member.size).decode("utf-8", "replace").strip()
        value: Any = text if suffix == "cls" else _of_json(text, f"{shard.path}, {key}.json")
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            return int(value)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return value
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return folder or None


def _of_json(text: str, where: str) -> Any:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON ({error}).") from None
    fields = content if isinstance(content, dict) else {}
    return next((fields[key] for key in _KEYS if key in fields), None)
