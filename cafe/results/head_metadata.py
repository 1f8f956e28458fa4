"""The types of the metadata in a head's file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from cafe.results.typed_json import ClassName, Count, Index, Name, Percent


class _Encoder(TypedDict):
    """The encoder of a head's features."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model: str
    pretrained: str
    weights_sha256: NotRequired[str | None]


class _Maps(TypedDict):
    """The spatial maps that a head takes."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    grid: Annotated[list[int], Field(min_length=2, max_length=2)]


class _OneEncoder(TypedDict):
    """One of several encoders of a head."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model: str
    pretrained: str
    cache_key: dict[str, Any]


class _CacheKey(TypedDict):
    """The key of the cache that a head was fitted on, of which most is compared as it is."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    spatial: NotRequired[_Maps | None]
    encoders: NotRequired[Annotated[list[_OneEncoder], Field(min_length=2)]]


class _Calibration(TypedDict, total=False):
    """What the logits are divided by."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    source: Literal["validation", "out-of-fold", "test", "none"]
    images: Index


class _Required(TypedDict):
    """What every head says of itself."""

    method: Name
    params: dict[str, Any]
    class_names: Annotated[list[ClassName], Field(min_length=2)]
    dataset: str
    encoder: _Encoder
    cache_key: _CacheKey


class HeadMetadata(_Required, total=False):
    """What heads say since version 0.1."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    width: Annotated[int, Field(gt=0, le=1 << 20)]
    shots: Count
    seed: Index
    accuracy: Percent
    baselines: dict[str, Percent]
    calibration: _Calibration
    learning: str
    cache: str | list[str]
    protocol: str
    command: str
    created: str
    versions: dict[str, Any]
