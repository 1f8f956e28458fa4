"""The folder of a run: written whole or not at all, and found again; fits nothing.

A run `<runs>/<time>-<dataset>-<model>/` holds `record.json`, `page.json`, `runs.csv`,
`predictions.csv` and one safetensors file per head; of a grid also `grid.jsonl` and `grid.csv`.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cafe.errors import CafeError, InputError, raise_as
from cafe.features.pool import INDUCTIVE, kind_of
from cafe.methods.zero_shot import ZeroShotHead
from cafe.results.head_selection import HeadSelector as HeadSelector
from cafe.results.head_selection import choose_result
from cafe.results.page import GRID_ROWS, PAGE, GridRow, Page, PageRow
from cafe.results.predictions import write_predictions
from cafe.results.record import RECORD, Record, read_record
from cafe.results.result import NOT_CALIBRATED, Result
from cafe.results.run_folders import RunNotFoundError, newest_run
from cafe.results.saved_head import save_head
from cafe.results.saved_model import MODEL, head_of_model, read_model
from cafe.results.typed_json import to_json
from cafe.store.files import check_folder, digest_of_file, remove_left_overs, write_folder
from cafe.store.key import noun_of, say_items
from cafe.store.paths import safe_name


def check_runs_folder(runs: Path | str | None) -> None:
    """Check before the first fit, and not after the last, that runs can be saved.

    Raises
    ------
    CafeError
        If the folder cannot be written; None saves nothing.
    """
    if runs is not None:
        with raise_as(CafeError, f"cannot write the run to '{runs}'", "choose another with runs="):
            check_folder(Path(runs))


def save_run(record: Record, runs: Path, grid_rows: Sequence[GridRow] | None = None) -> Record:
    """Save a record, its tables and its heads in a folder of its own, in one step.

    Parameters
    ----------
    record : Record
    runs : Path
        The folder of runs, made if need be.
    grid_rows : sequence of GridRow, optional
        The runs of a grid.

    Returns
    -------
    Record
        The record with its new folder.

    Raises
    ------
    CafeError
        If the folder cannot be written; nothing is left behind.
    """
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    base = safe_name(f"{stamp}-{record.dataset}-{record.encoder.model}")

    heads: dict[str, str] = {}

    def fill(folder: Path) -> None:
        _save_heads(folder, record)
        for file in sorted(folder.glob("*.safetensors")):
            heads[file.name] = digest_of_file(file)
        _write_json(folder / RECORD, replace(record, heads=heads).json, indent=1)
        _write_json(folder / PAGE, to_json(_page(record)))
        _write_csv(folder / "runs.csv", _COLUMNS, _table(record))
        if record.opened is not None:
            write_predictions(folder, record.opened, record.predictions)
        if grid_rows is not None:
            lines = [json.dumps(row) + "\n" for row in grid_rows]
            (folder / GRID_ROWS).write_text("".join(lines), encoding="utf-8")
            columns = list(GridRow.__annotations__)
            _write_csv(folder / "grid.csv", columns, (row.values() for row in grid_rows))

    try:
        runs.mkdir(parents=True, exist_ok=True)
        remove_left_overs(runs)
        folder = write_folder(runs / base, fill)
    except OSError as error:
        raise CafeError(
            f"cannot write the run to '{runs}' ({error.strerror}); choose another with runs=."
        ) from error
    return replace(record, folder=folder, heads=heads)


def _write_json(path: Path, values: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(values, indent=indent) + "\n", encoding="utf-8")


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


_COLUMNS = ("method", "shots", "seed", "accuracy", "seconds", "params", "learning")


def _table(record: Record) -> Iterable[Iterable[Any]]:
    """One row per head."""
    for result in record.results:
        share = result.seconds / len(record.protocol.seeds)
        scores = zip(record.protocol.seeds, result.heads, result.accuracy.per_seed, strict=False)
        for seed, head, score in scores:
            params = json.dumps(dict(head.params), sort_keys=True)
            learning = result.learning or INDUCTIVE
            yield result.method, result.shots, seed, score, share, params, learning


def _page(record: Record) -> Page:
    rows = [PageRow(method=r.method, shots=r.shots, **r.page) for r in record.results if r.page]
    return Page(record.class_names, tuple(rows))


def head_file(method: str, shots: object, seed: int) -> str:
    """Name of a head's file in the folder of its run."""
    return f"{method}.{shots}shot.seed{seed}.safetensors"


def _save_heads(folder: Path, record: Record) -> None:
    zero_shot = {r.shots: r.heads for r in record.results if r.method == "zero-shot"}
    for result in record.results:
        same = zero_shot.get(result.shots, [None] * len(result.heads))
        # of several encoders it would be one for each
        texts = [head if isinstance(head, ZeroShotHead) else None for head in same]
        for place, (head, text) in enumerate(zip(result.heads, texts, strict=True)):
            about = _about(record, result, place)
            if text is None and record.opened is not None:  # which else tells the width
                about["width"] = record.opened.width
            save_head(
                folder / head_file(result.method, result.shots, about["seed"]), head, about, text
            )


def _about(record: Record, result: Result, place: int) -> dict[str, Any]:
    """What a head's file tells: all that a user of the file alone would ask."""
    baselines = {
        other.method: other.accuracy.per_seed[place]
        for other in record.results
        if other.shots == result.shots
        and other is not result
        and kind_of(other.learning) == kind_of(result.learning)
    }
    return {
        "class_names": list(record.class_names),
        "shots": result.shots,
        "seed": record.protocol.seeds[place],
        "accuracy": result.accuracy.per_seed[place],
        "baselines": baselines,
        "calibration": to_json(result.calibration or NOT_CALIBRATED),
        "learning": result.learning or INDUCTIVE,
        "protocol": record.protocol.words,
        **{name: record.json[name] for name in _OF_RECORD},
    }


_OF_RECORD = ("dataset", "encoder", "cache", "cache_key", "command", "created", "versions")


class ChosenHead(NamedTuple):
    """The file of a head; `words` and `had_choice` as of `ChosenResult`."""

    file: Path
    words: str = ""
    had_choice: bool = False


def find_head(run: Path | str, selector: HeadSelector | None = None) -> Path:
    """Find the file of a head; see `choose_head`."""
    return choose_head(run, selector).file


def choose_head(run: Path | str, selector: HeadSelector | None = None) -> ChosenHead:
    """Find a head; of several the best by images that were held out, never by test images.

    Parameters
    ----------
    run : Path or str
        A head's safetensors file; the folder of a run; a folder of runs, whose newest counts; or
        the folder of a model.
    selector : HeadSelector, optional
        Which head of the run; for a head's file and for a model it must be empty.

    Raises
    ------
    RunNotFoundError
        If there is no such file or run.
    InputError
        If the run has no such head; those that it has are named.
    """
    path, selector = Path(run), selector or HeadSelector()
    is_model = (path / MODEL).is_file()
    if (is_model or path.is_file()) and any(part is not None for part in selector):
        raise InputError(
            f"'{path}' is one {'model' if is_model else 'head'}; method=, shots= and seed= choose "
            "among the heads of a run."
        )
    if is_model:
        model = read_model(path)
        known = model.estimate.words if model.estimate else "its accuracy is not known"
        known = say_items(known, noun_of(model.cache_key))
        return ChosenHead(head_of_model(path), f"model '{path}': {known}")
    if path.is_file():
        return ChosenHead(path)
    folder = newest_run(path)
    record = read_record(folder)
    if record.runs is not None:
        raise InputError(
            f"'{folder}' is an average over caches and has no head; name the run of one of them: "
            f"{', '.join(record.runs)}."
        )
    chosen = choose_result(record, selector)
    name = head_file(chosen.result.method, chosen.result.shots, chosen.seed)
    return ChosenHead(_checked(folder, record, name), chosen.words, chosen.had_choice)


def _checked(folder: Path, record: Record, name: str) -> Path:
    """The file of a head, if it is the one that the run saved."""
    file = folder / name
    if not file.is_file():
        raise RunNotFoundError(
            f"'{folder}' has lost its head '{file.name}'; fit again, or choose another with "
            "method=, shots= or seed=."
        )
    if file.name in record.heads and digest_of_file(file) != record.heads[file.name]:
        raise InputError(
            f"'{file}' is not the head that this run saved: it was damaged or replaced; fit again, "
            "or name the file itself to use it all the same."
        )
    return file
