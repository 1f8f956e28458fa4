"""Which caches of an interrupted comparison are done: their runs are read, and not made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cafe.errors import CafeError, InputError, raise_as
from cafe.results.record import Record, read_record, versions_here
from cafe.store import FeatureCache
from cafe.store.files import append_lines
from cafe.study.plan import StudyPlan


class Finished:
    """The saved runs of a comparison by the content of their caches, in a file of JSON lines.

    The file is named after all that the numbers depend on, and removed when the comparison is done.

    Parameters
    ----------
    runs : Path or None
        The folder of runs; None keeps nothing.
    sources : sequence of FeatureCache
    plans : sequence of StudyPlan
        Where a setting is no plain value (a pool, a text tower), nothing is kept.
    about : mapping
        What else numbers depend on; JSON values.
    """

    def __init__(
        self,
        runs: Path | None,
        sources: Sequence[FeatureCache],
        plans: Sequence[StudyPlan],
        about: Mapping[str, Any],
    ) -> None:
        self._runs, self._file, self._names = runs, None, dict[str, str]()
        if runs is None or len(sources) == 1:
            return
        contents = [cache.content_sha256 for cache in sources]
        values = [contents, list(map(vars, plans)), about, versions_here()]
        with contextlib.suppress(TypeError):  # no JSON value
            name = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
            self._file = runs / f".compare-{name}" / "finished.jsonl"
        if self._file is not None and self._file.is_file():
            for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn line
                    row = json.loads(line)
                    self._names[str(row["content"])] = str(row["run"])

    def find(self, cache: FeatureCache) -> Record | None:
        """The saved run of a cache, if it is there and whole."""
        name = self._names.get(cache.content_sha256)
        if name is None or self._runs is None:
            return None
        with contextlib.suppress(InputError):
            return replace(read_record(self._runs / name), opened=cache)
        return None

    def add(self, cache: FeatureCache, record: Record) -> None:
        """Keep that a cache is done, whose run was saved."""
        if self._file is None or record.folder is None:
            return
        line = json.dumps({"content": cache.content_sha256, "run": record.folder.name})
        with raise_as(CafeError, f"cannot write in '{self._file.parent}'", "free some space"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._file, [line])

    def discard(self) -> None:
        """Remove the file: the comparison is done."""
        if self._file is not None:
            shutil.rmtree(self._file.parent, ignore_errors=True)
