"""Our numbers beside the published ones: every cache of the eleven datasets, encoder by encoder.

It stands on both sides of the store: the measured accuracies come from the right, the datasets' and
prompts' published form, against which a cache's header is held, from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.datasets.catalog import KNOWN
from cafe.datasets.prompts import fill, templates_for
from cafe.errors import CacheNotFoundError
from cafe.features.splits import Shots
from cafe.methods.base import Protocol
from cafe.methods.catalog import CATALOG
from cafe.report.published import AVERAGES, DATASETS, backbone, published_beside
from cafe.results.paired import average
from cafe.store import FeatureCache, Header
from cafe.store.paths import cache_folder, list_caches
from cafe.study.compare import Comparison, compare
from cafe.study.study import Progress

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
    home: Path | str | None = None,
    methods: Sequence[str] | None = None,
    shots: Sequence[Shots] | None = None,
    seeds: int | Sequence[int] = 3,
    validation: Protocol = "none",
    needs: Callable[[FeatureCache], Mapping[str, Any]] | None = None,
    device: str = "auto",
    runs: Path | str | None = "runs",
    command: str = "",
    progress: Progress | None = None,
) -> list[Reproduction]:
    """Compare methods on every cache of the eleven datasets and set the published numbers beside.

    Parameters
    ----------
    home : Path or str, optional
        The folder of caches; None takes `$CAFE_CACHE`, else `./cache`.
    methods : sequence of str, optional
        Names of the catalog; None takes those with published averages.
    shots, seeds, validation, needs, device, runs, command, progress
        As of `cafe.compare`.

    Returns
    -------
    list of Reproduction
        One per encoder.

    Raises
    ------
    CacheNotFoundError
        If no cache is of one of the eleven datasets.
    """
    folder = cache_folder(home)
    names = methods or published_methods()
    found = []
    for encoder, caches in _by_encoder(folder).items():
        comparison = compare(
            caches,
            methods=names,
            shots=shots,
            seeds=seeds,
            validation=validation,
            needs=needs,
            device=device,
            runs=runs,
            command=command,
            progress=progress,
        )
        found.append(_beside(encoder, caches, comparison, validation))
    return found


def published_methods() -> list[str]:
    """Methods of cafe whose average over the eleven datasets is published."""
    named = dict.fromkeys(row.cafe for row in AVERAGES if row.cafe in CATALOG)
    return [name for name in named if name is not None]


def _by_encoder(home: Path) -> dict[str, list[FeatureCache]]:
    found: dict[str, dict[str, FeatureCache]] = {}
    for path in reversed(list_caches(home)):  # the newest of a dataset stays
        if path.parent.name in DATASETS:
            cache = FeatureCache.open(path)
            encoder = f"{cache.header.model}.{cache.header.pretrained}"
            found.setdefault(encoder, {})[path.parent.name] = cache
    if not found:
        raise CacheNotFoundError(
            f"no cache of the paper's eleven datasets in '{home}'; 'cafe extract --dataset dtd "
            "--model RN50' makes one, 'cafe datasets' lists them."
        )
    order = {name: number for number, name in enumerate(DATASETS)}
    return {
        encoder: [one for _, one in sorted(caches.items(), key=lambda pair: order[pair[0]])]
        for encoder, caches in found.items()
    }


def _beside(
    encoder: str, caches: Sequence[FeatureCache], comparison: Comparison, validation: Protocol
) -> Reproduction:
    rows = average([record.json for record in comparison.records])
    present = [cache.path.parent.name for cache in caches]
    model = caches[0].header.model
    mine = {row["method"] for row in rows}
    published = [{**row, "ours": row["cafe"] in mine} for row in published_beside(present, model)]
    warnings = [
        *_missing_warning(present, published),
        *(text for cache in caches for text in cache_warnings(cache)),
        *_validation_warnings(published, validation),
    ]
    if not published:
        warnings.append(f"no published numbers are known for {backbone(model)}.")
    used = [_used(cache) for cache in caches]
    return Reproduction(encoder, comparison, rows, published, used, warnings)


def _used(cache: FeatureCache) -> str:
    header = cache.header
    sizes = _sizes(cache.counts.get(split, 0) for split in ("train", "val", "test"))
    return (
        f"{cache.path.parent.name}: {header.source or 'split unknown'}, {sizes} images; prompts "
        f"like '{header.sentences[0][0]}', {len(header.sentences[0])} a class; weights "
        f"{header.model}.{header.pretrained}"
    )


def _missing_warning(present: Sequence[str], published: Sequence[Mapping[str, Any]]) -> list[str]:
    missing = [name for name in DATASETS if name not in present]
    if not missing:
        return []
    whole = [row["method"] for row in published if len(row["over"]) == len(DATASETS)]
    text = f"ours is over {len(present)} of the 11 datasets (no cache of {', '.join(missing)})"
    if whole:
        text += f"; published over all 11, so not to be compared: {', '.join(whole)}"
    return [f"{text}."]


def cache_warnings(cache: FeatureCache) -> list[str]:
    """Where a cache's split, classes, prompts or weights differ from what the papers use."""
    header = cache.header
    name = cache.path.parent.name
    (known,) = (row for row in KNOWN if row.name == name)
    found = []
    if known.split_file and known.split_file not in header.source:
        found.append(f"the split is '{header.source}', the papers use {known.split_file}")
    sizes = tuple(cache.counts.get(split, 0) for split in ("train", "val", "test"))
    if sizes != known.sizes:
        ours, theirs = _sizes(sizes), _sizes(known.sizes)
        found.append(f"train / val / test are {ours} images, theirs {theirs}")
    if len(header.class_names) != known.classes:
        found.append(f"{len(header.class_names)} classes, theirs {known.classes}")
    if not _same_prompts(header, name):
        template = templates_for(name)[0]
        found.append(f"the prompts are like '{header.sentences[0][0]}', theirs '{template}'")
    if header.pretrained != "openai":
        found.append(f"the weights are {header.pretrained}, theirs openai")
    return [f"{name}: {'; '.join(found)}."] if found else []


def _sizes(sizes: Iterable[int]) -> str:
    return " / ".join(f"{size:,}" for size in sizes)


def _same_prompts(header: Header, dataset: str) -> bool:
    expected = fill(header.class_names, templates_for(dataset))
    return [list(row) for row in header.sentences] == expected


def _validation_warnings(published: Sequence[Mapping[str, Any]], validation: Protocol) -> list[str]:
    return [
        f"{row['method']}: published with validation '{row['validation']}', ours '{validation}'."
        for row in published
        if row["ours"] and row["cafe"] != "zero-shot" and row["validation"] != validation
    ]
