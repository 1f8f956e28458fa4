"""Which saved head is meant: a head's file, a run's folder, or a folder of runs; fits nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cafe.errors import CafeError, InputError, UnknownNameError
from cafe.features.splits import Shots
from cafe.methods.catalog import BASELINES
from cafe.results.record import RECORD, head_file


class RunNotFoundError(CafeError, FileNotFoundError):
    """No such run."""


class HeadSelector(NamedTuple):
    """Which head of a run is wanted; None is the usual one.

    Attributes
    ----------
    method : str or None
        None takes the last method of the run: the baselines stand first.
    shots : int, "all" or None
        None takes the largest shot count.
    seed : int or None
        None takes the first seed, which is 0 unless others were asked for.
    """

    method: str | None = None
    shots: Shots | None = None
    seed: int | None = None


def find_head(run: Path | str, selector: HeadSelector | None = None) -> Path:
    """Find the file of a head.

    Parameters
    ----------
    run : Path or str
        A head's safetensors file; the folder of a run; or a folder of runs, whose newest counts.
    wish : HeadSelector, optional
        Which head of the run; for a head's file it must be empty.

    Returns
    -------
    Path

    Raises
    ------
    RunNotFoundError
        If there is no such file or run.
    InputError
        If the run has no such head; those that it has are named.
    """
    path, selector = Path(run), selector or HeadSelector()
    if path.is_file():
        if any(part is not None for part in selector):
            raise InputError(
                f"'{path}' is one head; --method, --shots and --seed choose among a run's heads."
            )
        return path
    folder = newest_run(path)
    record = read_record(folder)
    method = _method(record, selector.method)
    shots = _shots(record, method, selector.shots)
    seed = _seed(record, selector.seed)
    found = folder / head_file(method, shots, seed)
    if not found.is_file():
        raise RunNotFoundError(
            f"'{folder}' has lost its head '{found.name}'; fit again, or choose another with "
            "--method, --shots or --seed."
        )
    return found


def newest_run(folder: Path) -> Path:
    """The folder itself where it is a run, else the newest run in it."""
    if (folder / RECORD).is_file():
        return folder
    inside = [path.parent for path in folder.glob(f"[!.]*/{RECORD}")]
    if not inside:
        what = "holds no run" if folder.is_dir() else "is neither a run nor a head's file"
        raise RunNotFoundError(f"'{folder}' {what}; 'cafe fit' makes one and says where.")
    return max(inside, key=lambda run: ((run / RECORD).stat().st_mtime, run.name))


def read_record(folder: Path) -> Mapping[str, Any]:
    """The record of a run, as JSON values."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _ = record["results"][0]["method"], record["protocol"]["seeds"][0]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"'{folder / RECORD}' is not the record of a run ({error}).") from error
    return dict(record)


def _method(record: Mapping[str, Any], wanted: str | None) -> str:
    names = list(dict.fromkeys(result["method"] for result in record["results"]))
    if wanted is not None and wanted not in names:
        raise UnknownNameError("method of this run", wanted, names)
    own = [name for name in names if name not in BASELINES]
    return wanted or (own or names)[-1]


def _shots(record: Mapping[str, Any], method: str, wanted: Shots | None) -> Shots:
    results = record["results"]
    counts: list[Shots] = [found["shots"] for found in results if found["method"] == method]
    if wanted is not None and wanted not in counts:
        raise InputError(
            f"the run has no head of {wanted} shots; it has {', '.join(map(str, counts))}."
        )
    return max(counts, key=_size) if wanted is None else wanted


def _size(shots: Shots) -> float:
    return float("inf") if shots == "all" else shots


def _seed(record: Mapping[str, Any], wanted: int | None) -> int:
    seeds: list[int] = record["protocol"]["seeds"]
    if wanted is not None and wanted not in seeds:
        raise InputError(f"the run has no seed {wanted}; it has {', '.join(map(str, seeds))}.")
    return seeds[0] if wanted is None else wanted
