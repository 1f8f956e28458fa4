"""Our numbers beside the published ones: every cache of the eleven datasets, encoder by encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.errors import CacheNotFoundError
from cafe.methods.base import Protocol
from cafe.report import published
from cafe.results.averages import average
from cafe.store import FeatureCache
from cafe.store.paths import cache_folder, list_caches
from cafe.study.compare import compare
from cafe.study.compare_one import Comparison

Json = dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """One encoder on the datasets that are present.

    Attributes
    ----------
    encoder : str
        `model.pretrained`.
    comparison : Comparison
        Each dataset's record.
    rows : list of dict
        Our average: `method`, `shots`, `accuracy`, `seconds`.
    published : list of dict
        `method`, `cafe` (our name of it), `shots` (shots -> percent), `validation`, `source`,
        `prompts`, and `over`: the datasets that it is the average of.
    used : list of str
        Split, prompts and weights of each dataset.
    warnings : list of str
        Where our protocol differs from the published one.
    """

    encoder: str
    comparison: Comparison
    rows: list[Json]
    published: list[Json]
    used: list[str]
    warnings: list[str]

    def json(self) -> Json:
        """As JSON values: the comparison's, with `average`, `published` and `warnings`."""
        more = {"average": self.rows, "published": self.published}
        return {**self.comparison.json, **more, "used": self.used, "warnings": self.warnings}


def reproduce(
    *,
    root: Path | str | None = None,
    methods: Sequence[str] | None = None,
    validation: Protocol = "none",
    **options: Any,
) -> list[Reproduction]:
    """Compare methods on every cache of the eleven datasets and set the published numbers beside.

    Parameters
    ----------
    root : Path or str, optional
        The folder of caches; None takes `$CAFE_CACHE`, else `./cache`.
    methods : sequence of str, optional
        Names of the catalog; None takes those with published averages.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    **options
        More arguments of `cafe.compare`.

    Returns
    -------
    list of Reproduction
        One per encoder.

    Raises
    ------
    CacheNotFoundError
        If no cache is of one of the eleven datasets.
    """
    reproductions = []
    for encoder, caches in _caches_by_encoder(cache_folder(root)).items():
        names = methods or published.methods_with_averages()
        comparison = compare(caches, methods=names, validation=validation, **options)
        reproductions.append(_set_beside(encoder, caches, comparison, validation))
    return reproductions


def _caches_by_encoder(root: Path) -> dict[str, list[FeatureCache]]:
    """The newest cache of each of the eleven datasets, encoder by encoder."""
    by_encoder: dict[str, dict[str, FeatureCache]] = {}
    for path in reversed(list_caches(root)):  # a later one replaces an earlier: the newest stays
        if path.parent.name in published.DATASETS:
            cache = FeatureCache.open(path)
            encoder = f"{cache.header.model}.{cache.header.pretrained}"
            by_encoder.setdefault(encoder, {})[path.parent.name] = cache
    if not by_encoder:
        raise CacheNotFoundError(
            f"no cache of the paper's eleven datasets in '{root}'; 'cafe extract dtd "
            "--model RN50' makes one, 'cafe datasets' lists them."
        )
    return {
        encoder: [caches[name] for name in published.DATASETS if name in caches]
        for encoder, caches in by_encoder.items()
    }


def _set_beside(
    encoder: str, caches: Sequence[FeatureCache], comparison: Comparison, validation: Protocol
) -> Reproduction:
    """Our average over some caches of one encoder, and the published numbers."""
    rows = [result.json for result in average(comparison.records)]
    names, compared = [cache.path.parent.name for cache in caches], {row["method"] for row in rows}
    beside = [
        {**row, "ours": row["cafe"] in compared}
        for row in published.published_beside(names, caches[0].header.model)
    ]
    warnings = _missing_datasets(names, beside)
    for cache, name in zip(caches, names, strict=True):
        warnings += published.protocol_differences(cache, name)
    warnings += [
        f"{row['method']}: published with validation '{row['validation']}', ours '{validation}'."
        for row in beside
        if row["ours"] and row["cafe"] != "zero-shot" and row["validation"] != validation
    ]
    if not beside:
        model = published.backbone(caches[0].header.model)
        warnings.append(f"no published numbers are known for {model}.")
    data = list(map(_data_in_words, caches))
    return Reproduction(encoder, comparison, rows, beside, data, warnings)


def _missing_datasets(names: Sequence[str], beside: Sequence[Json]) -> list[str]:
    every = published.DATASETS
    missing = [name for name in every if name not in names]
    if not missing:
        return []
    text = f"ours is over {len(names)} of the 11 datasets (no cache of {', '.join(missing)})"
    over_all = [row["method"] for row in beside if len(row["over"]) == len(every)]
    if over_all:
        text += f"; published over all 11, so not to be compared: {', '.join(over_all)}"
    return [f"{text}."]


def _data_in_words(cache: FeatureCache) -> str:
    """Split, prompts and weights of a cache."""
    header, sizes = cache.header, published.split_sizes(cache)
    return (
        f"{cache.path.parent.name}: {header.source or 'split unknown'}, "
        f"{published.sizes_in_words(sizes)} images; prompts like '{header.sentences[0][0]}', "
        f"{len(header.sentences[0])} a class; weights {header.model}.{header.pretrained}"
    )
