"""What was fitted on every labelled image of a cache, as a model with its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cafe.datasets.make_split import SPLIT_BY_CAFE
from cafe.errors import escape_bytes
from cafe.features.pool import INDUCTIVE
from cafe.inference.model import Model
from cafe.inference.model_words import words_of
from cafe.results.model_record import ModelRecord
from cafe.results.record import RecordedEncoder
from cafe.results.saved_head import SavedHead
from cafe.store import FeatureCache, utc_now
from cafe.study.fit_on_all import Fitted

_MADE_HERE = SPLIT_BY_CAFE.partition(":")[0]
"""In the words of a source: its test split is cafe's own choice."""


def has_own_test(cache: FeatureCache) -> bool:
    """Whether the test split, if there is one, is the dataset's own."""
    return _MADE_HERE not in cache.header.source


def model_of(
    fitted: Fitted,
    cache: FeatureCache,
    *,
    asked: Sequence[str],
    settings: Mapping[str, Any],
    precision: Literal["fp32", "bf16"] | None,
    command: str = "",
    earlier: ModelRecord | None = None,
    learning: str = INDUCTIVE,
    content_sha256: str = "",
    remark: str = "",
) -> Model:
    """A model with its record, not saved.

    Parameters
    ----------
    fitted : Fitted
    cache : FeatureCache
        Where the features are from.
    asked : sequence of str
        The methods that it was chosen among.
    settings : mapping
        Hyper-parameters that were asked for.
    precision : {"fp32", "bf16"} or None
        Of the matrix products of training.
    command : str
        The command that asked for it.
    earlier : ModelRecord, optional
        The model that it replaces.
    learning : str
        What the head saw beside its labelled images; see `cafe.features.pool`.
    content_sha256 : str
        Digest of features and labels, where these are not the cache's own.
    remark : str
        What is to be said of it beside how it was fitted.
    """
    header = cache.header
    record = ModelRecord(
        dataset=header.dataset,
        source=header.source,
        method=fitted.head.method,
        encoder=RecordedEncoder.of_cache(cache),
        class_names=tuple(header.class_names),
        images=fitted.images,
        estimate=fitted.estimate,
        rivals=fitted.rivals,
        calibration=fitted.calibration,
        words=" ".join(filter(None, [words_of(fitted, cache, learning), remark])),
        learning=learning,
        settings=settings,
        asked=tuple(asked),
        cache=escape_bytes(str(cache.path)),
        content_sha256=content_sha256 or cache.content_sha256,
        cache_key=dict(header.key),
        command=command,
        created=utc_now(),
        versions=dict(header.versions),
        precision=precision,
        earlier=earlier.as_earlier() if earlier else None,
        width=cache.width if fitted.zero_shot is None else None,
    )
    about = {"method": fitted.head.method, "params": dict(fitted.head.params), **record.about}
    return Model(SavedHead(fitted.head, about, fitted.zero_shot).cpu(), record)
