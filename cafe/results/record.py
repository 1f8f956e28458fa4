"""The record of a run: what was compared under which protocol, what came out, and its averages."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cafe.errors import escape_bytes
from cafe.methods.base import Protocol
from cafe.results.dataframes import RecordFrames
from cafe.results.predictions import HeadName, Predictions
from cafe.results.result import ChosenConfiguration, Difference, Result
from cafe.results.typed_json import Count, Index, Name, NotNegative, from_json, read_text, to_json
from cafe.store import FeatureCache, utc_now

RECORD = "record.json"


@dataclass(frozen=True)
class RecordedEncoder:
    """The encoder of the features; its weights' SHA-256 is None where they are not known."""

    model: str
    pretrained: str
    weights_sha256: str | None = None

    @classmethod
    def of_cache(cls, cache: FeatureCache) -> RecordedEncoder:
        """The encoder whose features a cache holds."""
        header = cache.header
        return cls(header.model, header.pretrained, header.key.get("weights_sha256"))

    @property
    def name(self) -> str:
        """`model.pretrained`, as in the name of a cache."""
        return f"{self.model}.{self.pretrained}"

    def differs_from(self, other: RecordedEncoder) -> bool:
        """Whether they are two: by their weights where both are known, else by name."""
        if self.weights_sha256 and other.weights_sha256:
            return self.weights_sha256 != other.weights_sha256
        return self.name != other.name


@dataclass(frozen=True)
class RecordedProtocol:
    """How a study was run: one shot count or several, seeds, validation, and all of it in words;
    `brief` is the same in a line, in memory only.
    """

    shots: Count | tuple[Count, ...]
    seeds: Annotated[tuple[Index, ...], Field(min_length=1)]
    validation: Protocol
    words: str
    brief: Annotated[str, Field(exclude=True)] = ""


@dataclass(frozen=True)
class Halves:
    """Number of classes in either half of base-to-new."""

    base: int
    new: int


@dataclass(frozen=True, repr=False)
class Record(RecordFrames):
    """What a study found and how.

    Attributes
    ----------
    cache : str, or tuple of str
        The file, or the files that an average is over.
    dataset : str
    encoder : RecordedEncoder
    protocol : RecordedProtocol
    results : tuple of Result
        Accuracies are in percent.
    command : str
        The command that asked for it; "" from Python.
    created : str
        ISO 8601.
    versions, cache_key : mapping
        Of the cache.
    fitted_with : mapping of str to str
        Versions of cafe and PyTorch that fitted; empty in records of earlier versions.
    precision : {"fp32", "bf16"} or None
        Of the matrix products; None in records of earlier versions. (`coop` and `cpl` may take
        another one, as their params say.)
    source : str
        In words, where images, labels and split come from: as the cache has it.
    kind : {"compare", "base-to-new", "compare-average", "base-to-new-average"} or None
        None for `cafe.fit` and `cafe.grid`.
    differences : tuple of Difference or None
        Of a comparison: to CLIP-Adapter.
    base_to_new : Halves or None
    left_out : mapping of str to str, or None
        Methods that were not compared, with the reason: they cannot take new classes, or need text
        of the classes that there is none of.
    datasets, runs : tuple of str or None
        Of an average: the datasets, and the folders of their runs beside this one.
    best, best_per_shots : ChosenConfiguration, tuple of these, or None
        Of a grid.
    seconds, runs_per_second : float or None
        Of a grid: time of the training, earlier sittings not counted.
    heads : mapping of str to str
        In the run's folder: the SHA-256 of every head's file.
    opened : FeatureCache or None
        The cache, for the ids of its images; in memory only.
    class_names : tuple of str
        In memory only; `page.json` holds them.
    folder : Path or None
        Where it is saved; in memory only.
    """

    cache: str | tuple[str, ...]
    dataset: str
    encoder: RecordedEncoder
    protocol: RecordedProtocol
    results: Annotated[tuple[Result, ...], Field(min_length=1)]
    command: str
    created: str
    versions: Mapping[str, Any]
    cache_key: Mapping[str, Any] = field(default_factory=dict)
    fitted_with: Mapping[str, str] = field(default_factory=dict)
    precision: Literal["fp32", "bf16"] | None = None
    source: str = ""
    kind: str | None = None
    differences: tuple[Difference, ...] | None = None
    base_to_new: Halves | None = None
    left_out: Mapping[str, str] | None = None
    datasets: tuple[str, ...] | None = None
    runs: tuple[Name, ...] | None = None
    best: ChosenConfiguration | None = None
    best_per_shots: tuple[ChosenConfiguration, ...] | None = None
    seconds: NotNegative | None = None
    runs_per_second: NotNegative | None = None
    heads: Mapping[str, str] = field(default_factory=dict)
    opened: Annotated[Any, Field(exclude=True)] = None
    class_names: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    folder: Annotated[Path | None, Field(exclude=True)] = None

    def __post_init__(self) -> None:
        # pairing by seed, and the page, take the place in `per_seed` for the seed
        for result in self.results:
            if len(result.accuracy.per_seed) != len(self.protocol.seeds):
                raise ValueError(f"{result.method} does not have one accuracy per seed")

    @property
    def predictions(self) -> dict[HeadName, Predictions]:
        """What every head says of the test images; empty where the record was read."""
        return {
            HeadName(result.method, result.shots, seed): predictions
            for result in self.results
            for seed, predictions in zip(self.protocol.seeds, result.predictions, strict=False)
        }

    @cached_property
    def json(self) -> dict[str, Any]:
        """The record as JSON values, as `record.json` holds it."""
        return to_json(self)


def make_record(
    cache: FeatureCache,
    protocol: RecordedProtocol,
    results: Sequence[Result],
    command: str = "",
    **fields: Any,
) -> Record:
    """Put the results of a study on one cache into a record; `fields` are further ones of it.

    The words of the protocol begin with where images and split come from.
    """
    header = cache.header
    if header.source:
        protocol = replace(protocol, words=f"Data: {header.source}. {protocol.words}")
    return Record(
        cache=escape_bytes(str(cache.path)),
        dataset=header.dataset,
        encoder=RecordedEncoder.of_cache(cache),
        protocol=protocol,
        results=tuple(results),
        command=command,
        created=utc_now(),
        versions=dict(header.versions),
        cache_key=dict(header.key),
        fitted_with=versions_here(),
        source=header.source,
        opened=cache,
        **{"class_names": tuple(header.class_names), **fields},
    )


def versions_here() -> dict[str, str]:
    """The versions of what numbers depend on beside settings and caches."""
    return {name: importlib.metadata.version(name) for name in ("cafe-clip", "torch")}


def read_record(folder: Path) -> Record:
    """Read the record of a run.

    Raises
    ------
    InputError
        If it is no record; file and field are named.
    """
    path = folder / RECORD
    return replace(from_json(Record, read_text(path), path), folder=folder, opened=None)
