"""Reads runs back for a page, with an analysis of the head where the run's cache is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cafe.datasets.text_files import distinct_names
from cafe.errors import CafeError, InputError, unescape_bytes
from cafe.report.analysis import analyse
from cafe.report.confusions import read_confusions
from cafe.report.heat_maps import read_heat_maps
from cafe.report.published import DATASETS, protocol_differences, published_beside
from cafe.report.ranking import ranking
from cafe.report.report_data import Key, ReportData
from cafe.results.head_selection import HeadSelector, choose_result
from cafe.results.page import ResultPage, read_page
from cafe.results.record import Record, read_record
from cafe.results.run_folders import newest_run
from cafe.store import FeatureCache
from cafe.store.key import differences


def collect(
    runs: Sequence[Path | str], images: Path | None = None, method: str | None = None
) -> list[ReportData]:
    """Read runs back.

    Parameters
    ----------
    runs : sequence of Path or str
        Folders of runs; of a folder of runs the newest counts. The average of several caches brings
        the run of each cache with it.
    images : Path, optional
        Folder that the images of the dataset lie in, for thumbnails.
    method : str, optional
        Whose head is looked into; None takes the best at the most shots.

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
        for name in read_record(folder).runs or ():
            if (folder.parent / name).is_dir():
                folders[folder.parent / name] = None
    return [_collect_run(folder, images, method) for folder in folders]


def _collect_run(folder: Path, images: Path | None, method: str | None) -> ReportData:
    record, page = read_record(folder), read_page(folder)
    diagnostics: dict[Key, ResultPage] = {
        (row["method"], row["shots"]): row for row in page.results
    }
    results = {
        key: replace(result, page=diagnostics.get(key, {}))
        for result in record.results
        for key in [(result.method, result.shots)]
    }
    usual = choose_result(record, HeadSelector())
    best = ranking(results.values(), usual.result.shots)[0].results[0]
    chosen = choose_result(record, HeadSelector(method or best.method))
    class_names = distinct_names(page.class_names)
    focus, notes, analysis = (chosen.result.method, chosen.result.shots), list[str](), None
    published = _published(record)
    cache = _unchanged_cache(record, notes)
    if cache is not None and published:
        notes += [
            f"Unlike the published protocol: {text}"
            for text in protocol_differences(cache, record.dataset)
        ]
    if cache is not None:
        try:
            analysis = analyse(folder, cache, results[focus], chosen.seed, images)
            notes += analysis.notes
        except CafeError as error:
            notes.append(f"The features are not analysed: {error}")
    return ReportData(
        folder=folder,
        record=record,
        results=results,
        class_names=class_names,
        heat_maps=read_heat_maps(folder, record),
        focus=focus,
        focus_in_words=chosen.words,
        had_choice=method is None and usual.had_choice,
        published=published,
        predicts=None if record.runs else usual.result,
        confusions=read_confusions(folder, results[focus], record.protocol.seeds, class_names),
        analysis=analysis,
        notes=notes,
    )


def _unchanged_cache(record: Record, notes: list[str]) -> FeatureCache | None:
    """The cache of a run, if it is there and still the same; else a note says why it is not."""
    if not isinstance(record.cache, str) or record.base_to_new:
        return None
    path = Path(unescape_bytes(record.cache))
    if not path.is_file():
        problem = f"The cache '{path}' is not at hand"
    else:
        try:
            cache = FeatureCache.open(path)
            changes = differences(cache.header.key, record.cache_key)
            if not changes:
                return cache
            problem = f"The cache '{path}' has changed since ({changes[0]})"
        except CafeError as error:
            problem = f"The cache cannot be read ({error})"
    notes.append(
        f"{problem}, so there is no map of the features, no calibrated reliability and no picture."
    )
    return None


def _published(record: Record) -> list[dict[str, Any]]:
    names = list(record.datasets or [record.dataset])
    if not set(names) <= set(DATASETS):
        return []
    rows = published_beside(names, record.encoder.model)
    # an average over eleven datasets says nothing about one of them
    return [row for row in rows if record.datasets or row["over"] == names]
