"""What the file of a head says of itself, as types."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from cafe.results.typed_json import ClassName, Count, Index, Name, Percent


class _Encoder(TypedDict):
    """The encoder of a head's features."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model: str
    pretrained: str


class _Calibration(TypedDict, total=False):
    """What the logits are divided by."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class _Required(TypedDict):
    """What every head says of itself."""

    method: Name
    params: dict[str, Any]
    class_names: Annotated[list[ClassName], Field(min_length=2)]
    dataset: str
    encoder: _Encoder
    cache_key: dict[str, Any]


class HeadAbout(_Required, total=False):
    """What heads say since version 0.1."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    shots: Count
    seed: Index
    accuracy: Percent
    baselines: dict[str, Percent]
    calibration: _Calibration
    cache: str
    protocol: str
    command: str
    created: str
    versions: dict[str, Any]
