"""Records of runs and saved heads: what a run leaves on disk; knows no training."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cafe.errors import CafeError
from cafe.files import write_folder
from cafe.methods.head import Head
from cafe.results.plan import Calibration, Result, StudyPlan
from cafe.results.saved_head import SavedHead, load_head, save_head
from cafe.store import FeatureCache

__all__ = ["RECORD", "Record", "SavedHead", "head_file", "load_head", "make_record", "save_run"]

RECORD, TABLE, PAGE = "record.json", "runs.csv", "page.json"


@dataclass(frozen=True)
class Record:
    """What a study found and how.

    Attributes
    ----------
    json : mapping
        The record as JSON values: `cache`, `dataset`, `encoder`, `protocol`, `results`, `command`,
        `created`, `versions`. Accuracies are in percent.
    results : sequence of Result
        The results with their heads.
    class_names : tuple of str
    folder : Path or None
        Where it is saved.
    """

    json: Mapping[str, Any]
    results: Sequence[Result]
    class_names: tuple[str, ...]
    folder: Path | None = None


def make_record(
    cache: FeatureCache,
    plan: StudyPlan,
    words: str,
    results: Sequence[Result],
    command: str = "",
    calibrations: Sequence[Calibration] = (),
) -> Record:
    """Put a study into a record; `calibrations` has one entry per result, or none."""
    header = cache.header
    known = calibrations or [Calibration()] * len(results)
    shots = list(plan.shots)
    record = {
        "cache": str(cache.path),
        "dataset": header.dataset,
        "encoder": {
            "model": header.model,
            "pretrained": header.pretrained,
            "weights_sha256": header.key.get("weights_sha256"),
        },
        "protocol": {
            "shots": shots[0] if len(shots) == 1 else shots,
            "seeds": list(plan.seeds),
            "validation": plan.validation,
            "words": words,
        },
        "results": list(map(_result_json, results, known)),
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(header.versions),
        "cache_key": dict(header.key),
    }
    return Record(record, results, header.class_names)


def _result_json(result: Result, calibration: Calibration) -> dict[str, Any]:
    return {
        "method": result.method,
        "shots": result.shots,
        "params": _shared_params(result.heads),
        "accuracy": {**asdict(result.accuracy), "per_seed": list(result.accuracy.per_seed)},
        "seconds": result.seconds,
        "metrics": dict(result.metrics),
        "calibration": calibration.json(),
    }


def _shared_params(heads: Sequence[Head]) -> dict[str, Any]:
    """Hyper-parameters of all seeds: the value where they agree, else one value per seed."""
    merged: dict[str, Any] = {}
    for name in heads[0].params:
        values = [head.params.get(name) for head in heads]
        merged[name] = values[0] if all(value == values[0] for value in values) else values
    return merged


def save_run(record: Record, home: Path) -> Record:
    """Save a record, its table and its heads in a folder of its own, in one step.

    Parameters
    ----------
    record : Record
    home : Path
        The folder of runs, made if need be.

    Returns
    -------
    Record
        The record with its new folder `<home>/<time>-<dataset>-<model>/`, which holds
        `record.json`, `runs.csv` and one safetensors file per head.

    Raises
    ------
    CafeError
        If the folder cannot be written; nothing is left behind.
    """
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{record.json['dataset']}-{record.json['encoder']['model']}".replace("/", "-")

    def fill(folder: Path) -> None:
        (folder / RECORD).write_text(json.dumps(record.json, indent=1) + "\n", encoding="utf-8")
        _write_table(folder / TABLE, record)
        _write_page(folder / PAGE, record)
        _save_heads(folder, record)

    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = write_folder(home / base, fill)
    except OSError as error:
        raise CafeError(
            f"cannot write the run to '{home}' ({error.strerror}); choose another with --runs."
        ) from error
    return replace(record, folder=folder)


def _write_table(path: Path, record: Record) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "shots", "seed", "accuracy", "seconds", "params"])
        for result in record.results:
            share = result.seconds / len(result.heads)
            scores = result.accuracy.per_seed
            seeds = record.json["protocol"]["seeds"]
            for seed, head, score in zip(seeds, result.heads, scores, strict=True):
                params = json.dumps(dict(head.params), sort_keys=True)
                writer.writerow([result.method, result.shots, seed, score, share, params])


def _write_page(path: Path, record: Record) -> None:
    """What `cafe report` shows beyond the record: per class, confusions, reliability."""
    rows = [{"method": r.method, "shots": r.shots, **r.page} for r in record.results]
    page = {"class_names": list(record.class_names), "results": rows}
    path.write_text(json.dumps(page) + "\n", encoding="utf-8")


def head_file(method: str, shots: object, seed: int) -> str:
    """Name of a head's file in the folder of its run."""
    return f"{method}.{shots}shot.seed{seed}.safetensors"


def _save_heads(folder: Path, record: Record) -> None:
    zero_shot = {result.shots: result for result in record.results if result.method == "zero-shot"}
    for number, result in enumerate(record.results):
        text = zero_shot.get(result.shots)
        for place, head in enumerate(result.heads):
            about = _about(record, number, place)
            path = folder / head_file(result.method, result.shots, about["seed"])
            save_head(path, head, about, None if text is None else text.heads[place])


def _about(record: Record, number: int, place: int) -> dict[str, Any]:
    """What a head's file tells: all that a user of the file alone would ask."""
    result, json_ = record.results[number], record.json
    beside = [other for other in record.results if other.shots == result.shots]
    return {
        "class_names": list(record.class_names),
        "shots": result.shots,
        "seed": json_["protocol"]["seeds"][place],
        "accuracy": result.accuracy.per_seed[place],
        "baselines": {r.method: r.accuracy.per_seed[place] for r in beside if r is not result},
        "calibration": json_["results"][number]["calibration"],
        "protocol": json_["protocol"]["words"],
        **{name: json_[name] for name in _KEPT},
    }


_KEPT = ("dataset", "encoder", "cache", "cache_key", "command", "created", "versions")
