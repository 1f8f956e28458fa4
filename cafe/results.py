"""Records of runs and saved heads: what a run leaves on disk; knows no training."""

from __future__ import annotations

import csv
import datetime
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file

from cafe.errors import CafeError, InputError
from cafe.methods.base import Head
from cafe.methods.catalog import CATALOG, method_class
from cafe.store import FeatureCache
from cafe.study import Plan, Result

RECORD, TABLE = "record.json", "runs.csv"


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
    cache: FeatureCache, plan: Plan, words: str, results: Sequence[Result], command: str = ""
) -> Record:
    """Put a study into a record."""
    header = cache.header
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
        "results": [_result_json(result) for result in results],
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(header.versions),
        "cache_key": dict(header.key),
    }
    return Record(record, results, header.class_names)


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "method": result.method,
        "shots": result.shots,
        "params": _shared_params(result.heads),
        "accuracy": {**asdict(result.accuracy), "per_seed": list(result.accuracy.per_seed)},
        "seconds": result.seconds,
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
        The record with its new folder `<home>/<time>-<dataset>-<model>/`, which holds `record.json`, `runs.csv` and one safetensors
        file per head.

    Raises
    ------
    CafeError
        If the folder cannot be written; nothing is left behind.
    """
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{record.json['dataset']}-{record.json['encoder']['model']}".replace("/", "-")
    temporary = home / f".{base}.{os.getpid()}.writing"
    try:
        temporary.mkdir(parents=True)
        (temporary / RECORD).write_text(json.dumps(record.json, indent=1) + "\n", encoding="utf-8")
        _write_table(temporary / TABLE, record)
        for result in record.results:
            for seed, head in zip(record.json["protocol"]["seeds"], result.heads, strict=True):
                file = f"{result.method}.{result.shots}shot.seed{seed}.safetensors"
                save_head(temporary / file, head, record)
        folder = _free_name(home, base)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CafeError(
            f"cannot write the run to '{home}' ({error.strerror}); choose another with --runs."
        ) from error
    return replace(record, folder=folder)


def _free_name(home: Path, base: str) -> Path:
    folder, number = home / base, 2
    while folder.exists():
        folder, number = home / f"{base}-{number}", number + 1
    return folder


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


def save_head(path: Path, head: Head, record: Record) -> None:
    """Save a head with everything that is needed to use it again.

    The safetensors metadata holds one JSON text under "cafe": method, params, class names, and the
    encoder's identity.
    """
    about = {
        "method": head.method,
        "params": dict(head.params),
        "class_names": list(record.class_names),
        "dataset": record.json["dataset"],
        "encoder": record.json["encoder"],
        "cache_key": record.json["cache_key"],
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in head.tensors().items()}
    save_file(tensors, path, metadata={"cafe": json.dumps(about)})


@dataclass(frozen=True)
class SavedHead:
    """A head read back, with what its file says of it."""

    head: Head
    about: Mapping[str, Any]


def load_head(path: Path) -> SavedHead:
    """Read a saved head.

    Parameters
    ----------
    path : Path
        A safetensors file of a run; no code in it is run.

    Raises
    ------
    InputError
        If it is no saved head.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["cafe"])
        kind = method_class(about["method"]).head
        head = kind.from_tensors(load_file(path), about["params"])
    except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"'{path}' is not a head that cafe saved ({error}); known methods are "
            f"{', '.join(CATALOG)}."
        ) from error
    return SavedHead(head, about)
