"""What a page tells of a run: its record and, where its cache is at hand, a look at its images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cafe.errors import CafeError, InputError
from cafe.methods.catalog import BASELINES
from cafe.report.analysis import Analysis, analyse
from cafe.report.published import DATASETS, protocol_differences, published_beside
from cafe.results.runs import newest_run, read_record
from cafe.store import FeatureCache
from cafe.store.key import differences

Row = Mapping[str, Any]
PREFERRED = ("clip-adapter", "auto")
"""Methods that a page looks into, the first that a run has; else its last method."""


@dataclass(frozen=True)
class ReportData:
    """One run, read back.

    Attributes
    ----------
    folder : Path
    record : mapping
        `record.json`.
    results : mapping of (method, shots) to mapping
        Rows of the record, with what `page.json` says of each under "page".
    class_names : list of str
    grid : list of mapping
        Rows of a grid, else empty.
    focus : (method, shots)
        What the page looks into: per class, confusions, calibration, map.
    published : list of mapping
        Published numbers on the same data, where there are such.
    look : Analysis or None
        What the cached features show, where they are at hand.
    notes : list of str
        What is not shown, and why.
    """

    folder: Path
    record: Row
    results: Mapping[tuple[str, Any], Row]
    class_names: Sequence[str]
    grid: Sequence[Row]
    focus: tuple[str, Any]
    published: Sequence[Row]
    analysis: Analysis | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def shots(self) -> list[Any]:
        """Shot counts in the order of the record."""
        return list(dict.fromkeys(shots for _, shots in self.results))

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the record."""
        return list(dict.fromkeys(method for method, _ in self.results))

    @property
    def comparable(self) -> list[Row]:
        """Published numbers over the very datasets of this run."""
        names = set(self.record.get("datasets", [self.record["dataset"]]))
        return [row for row in self.published if set(row["over"]) == names]

    @property
    def encoder(self) -> str:
        """`model.pretrained`."""
        encoder = self.record["encoder"]
        return f"{encoder['model']}.{encoder['pretrained']}"


def collect(runs: Sequence[Path | str], images: Path | None = None) -> list[ReportData]:
    """Read runs back.

    Parameters
    ----------
    runs : sequence of Path or str
        Folders of runs; of a folder of runs the newest counts. The average of several caches brings
        the run of each cache with it.
    images : Path, optional
        Folder that the images of the dataset lie in, for thumbnails.

    Returns
    -------
    list of ReportData

    Raises
    ------
    InputError
        If there are no runs, or one has no readable record.
    """
    if not runs:
        raise InputError("no run to report on; 'cafe fit' makes one and says where.")
    folders: dict[Path, None] = {}
    for run in runs:
        folder = newest_run(Path(run))
        folders[folder] = None
        for name in read_record(folder).get("runs", ()):
            if (folder.parent / name).is_dir():
                folders[folder.parent / name] = None
    return [_gather(folder, images) for folder in folders]


def _gather(folder: Path, images: Path | None) -> ReportData:
    record = read_record(folder)
    page = _read_page(folder)
    about = {(row["method"], row["shots"]): row for row in page.get("results", ())}
    results = {}
    for row in record["results"]:
        key = (row["method"], row["shots"])
        results[key] = {**row, "page": about.get(key, {})}
    focus = _focus(results)
    notes: list[str] = []
    seen = None
    published = _published(record)
    cache = _cache(record, notes)
    if cache is not None and published:
        notes += [
            f"Unlike the published protocol: {text}"
            for text in protocol_differences(cache, record["dataset"])
        ]
    if cache is not None:
        try:
            seen = analyse(folder, cache, results[focus], record["protocol"]["seeds"][0], images)
            notes += seen.notes
        except CafeError as error:
            notes.append(f"No look at the features: {error}")
    return ReportData(
        folder=folder,
        record=record,
        results=results,
        class_names=page.get("class_names", ()),
        grid=_read_grid(folder),
        focus=focus,
        published=published,
        analysis=seen,
        notes=notes,
    )


def _read_page(folder: Path) -> dict[str, Any]:
    path = folder / "page.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"'{path}' is damaged ({error}); fit again.") from error


def _read_grid(folder: Path) -> list[Row]:
    path = folder / "grid.jsonl"
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"'{path}' is damaged ({error}); run the grid again.") from error


def _focus(results: Mapping[tuple[str, Any], Row]) -> tuple[str, Any]:
    names = list(dict.fromkeys(method for method, _ in results))
    own = [name for name in names if name not in BASELINES] or names
    method = next((name for name in PREFERRED if name in own), own[-1])
    counts = [shots for name, shots in results if name == method]
    return method, max(counts, key=lambda shots: float("inf") if shots == "all" else shots)


def _cache(record: Row, notes: list[str]) -> FeatureCache | None:
    """The cache of a run, if it is there and still the same."""
    if not isinstance(record["cache"], str) or "base_to_new" in record:
        return None
    path = Path(record["cache"])
    advice = "so there is no map of the features, no calibrated reliability and no picture"
    if not path.is_file():
        notes.append(f"The cache '{path}' is not at hand, {advice}.")
        return None
    try:
        cache = FeatureCache.open(path)
    except CafeError as error:
        notes.append(f"The cache cannot be read ({error}), {advice}.")
        return None
    different = differences(cache.header.key, record.get("cache_key", {}))
    if different:
        notes.append(f"The cache '{path}' has changed since ({different[0]}), {advice}.")
        return None
    return cache


def _published(record: Row) -> list[dict[str, Any]]:
    names = record.get("datasets", [record["dataset"]])
    if not set(names) <= set(DATASETS):
        return []
    found = published_beside(names, record["encoder"]["model"])
    # an average over eleven datasets says nothing of one of them
    return [row for row in found if "datasets" in record or row["over"] == names]
