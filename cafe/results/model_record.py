"""The record of a model: how it was made, how good it is, and what it replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from cafe.features.pool import INDUCTIVE
from cafe.results.estimate import Estimate
from cafe.results.record import RecordedEncoder
from cafe.results.result import Calibration
from cafe.results.typed_json import ClassName, Index, Name, Percent, to_json
from cafe.store.key import noun_of, say_items


@dataclass(frozen=True)
class Earlier:
    """The model that a model replaced: its method, images of each class, and accuracy."""

    created: str
    method: Name
    encoder: str
    class_names: tuple[ClassName, ...]
    images: tuple[Index, ...]
    accuracy: Percent | None


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a model.

    Attributes
    ----------
    dataset, source : str
        What it was trained on, and in words where images and labels come from.
    method : str
    encoder : RecordedEncoder
    class_names : tuple of str
        (C,)
    images : tuple of int
        How many of each class it was fitted on. (C,)
    estimate : Estimate or None
        Accuracy to expect on new images; None where no class had two images.
    rivals : mapping of str to float
        Accuracy of the methods that were not kept, on the same held-out images.
    calibration : Calibration
    words : str
        How it was trained and judged.
    settings : mapping
        Hyper-parameters that were asked for.
    asked : tuple of str
        The methods that it was chosen among.
    cache, content_sha256 : str
        The cache, and the digest of all that was in it.
    cache_key : mapping
        Everything that determines its features.
    command : str
        The command that made it; "" from Python.
    created : str
        ISO 8601.
    versions : mapping
        Of the cache.
    precision : {"fp32", "bf16"} or None
        Of the matrix products of its training; None where it was not recorded.
    learning : str or None
        "inductive", or in words what it saw without labels; None where it was not recorded.
    earlier : Earlier or None
        The model of the same dataset that it replaced.
    width : int or None
        Feature width; None where the zero-shot weights in the head's file tell it.
    head, head_sha256 : str
        File of the head in the folder, and its SHA-256; "" before it is saved.
    """

    dataset: str
    source: str
    method: Name
    encoder: RecordedEncoder
    class_names: Annotated[tuple[ClassName, ...], Field(min_length=2)]
    images: tuple[Index, ...]
    estimate: Estimate | None
    rivals: Mapping[str, Percent]
    calibration: Calibration
    words: str
    settings: Mapping[str, Any]
    asked: tuple[str, ...]
    cache: str
    content_sha256: str
    cache_key: Mapping[str, Any]
    command: str
    created: str
    versions: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "bf16"] | None = None
    learning: str | None = None
    earlier: Earlier | None = None
    width: Index | None = None
    head: str = ""
    head_sha256: str = ""

    def __post_init__(self) -> None:
        judged = (self.estimate.per_class,) if self.estimate else ()
        for values in (self.images, *judged):
            if len(values) != len(self.class_names):
                raise ValueError(f"{len(values)} values for {len(self.class_names)} classes")

    @property
    def json(self) -> dict[str, Any]:
        """The record as JSON values, as `model.json` holds it."""
        return to_json(self)

    @property
    def about(self) -> dict[str, Any]:
        """What the head's own file says: all but what is of the folder."""
        values = self.json
        kept = (
            "dataset",
            "encoder",
            "cache",
            "cache_key",
            "command",
            "created",
            "estimate",
            "learning",
            "width",
        )
        return {
            **{name: values[name] for name in kept if values.get(name) is not None},
            "versions": dict(self.versions),
            "class_names": list(self.class_names),
            "calibration": to_json(self.calibration),
            "shots": "all",
            "protocol": self.words,
        }

    @property
    def brief(self) -> str:
        """One line on how the method was chosen, and on what it was fitted."""
        others = " and ".join(self.rivals)
        chosen = f"{self.method}, which was better than {others} on held-out images"
        what = chosen if others else self.method
        seen = "" if self.learning in (None, INDUCTIVE) else f"; {self.learning}"
        line = f"Fitted on all {sum(self.images):,} labelled images: {what}{seen}."
        return say_items(line, noun_of(self.cache_key))

    def as_earlier(self) -> Earlier:
        """What a model that takes its place says of it."""
        accuracy = self.estimate.accuracy if self.estimate else None
        names, images = self.class_names, self.images
        return Earlier(self.created, self.method, self.encoder.name, names, images, accuracy)


def changes(record: ModelRecord) -> list[str]:
    """What is different from the model that it replaced, a line each; none where it is the first.

    Images are counted: that one was exchanged for another is not seen here.
    """
    before = record.earlier
    if before is None:
        return []
    items = say_items("images", noun_of(record.cache_key))
    lines = [f"{items}: {sum(before.images):,} -> {sum(record.images):,}"]
    new, gone = (
        [name for name in some if name not in others]
        for some, others in (
            (record.class_names, before.class_names),
            (before.class_names, record.class_names),
        )
    )
    lines += [f"new classes: {', '.join(new)}"] if new else []
    lines += [f"classes that are gone: {', '.join(gone)}"] if gone else []
    pairs = (
        ("method", before.method, record.method),
        ("encoder", before.encoder, record.encoder.name),
    )
    lines += [f"{what}: {old} -> {now}" for what, old, now in pairs if old != now]
    if before.accuracy is not None and record.estimate is not None:
        lines.append(
            f"estimated accuracy: {before.accuracy:.1f} % -> {record.estimate.accuracy:.1f} %"
        )
    return lines
