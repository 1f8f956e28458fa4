"""What a shell completes: names of caches, datasets, encoders, methods and runs.

A shell asks at every press of the key, so nothing is imported for it that takes time: neither
`cafe.store`, which brings HDF5, nor open_clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import typer

from cafe.errors import STEERING


def caches(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the caches in the cache folder."""
    return _starting(incomplete, map("/".join, _caches(context)))


def datasets_of_caches(context: typer.Context, incomplete: str) -> list[str]:
    """Datasets that there is a cache of."""
    return _starting(incomplete, (dataset for dataset, _ in _caches(context)))


def models_of_caches(context: typer.Context, incomplete: str) -> list[str]:
    """Encoders that there is a cache of."""
    return _starting(incomplete, (name.partition(".")[0] for _, name in _caches(context)))


def _caches(context: typer.Context) -> list[tuple[str, str]]:
    root = context.params.get("cache") or os.environ.get("CAFE_CACHE") or "cache"
    paths = Path(root).glob("*/[!.]*.h5")
    return [(path.parent.name, path.name.removesuffix(".h5")) for path in paths]


def datasets(incomplete: str) -> list[str]:
    """Datasets that cafe knows; the shell itself completes folders."""
    from cafe.datasets.catalog import KNOWN

    return _starting(incomplete, ["digits", *(row.name for row in KNOWN)])


def models(incomplete: str) -> list[str]:
    """Architectures of open_clip, by its files of configurations, and `nano`."""
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    files = (file for folder in folders or () for file in Path(folder).glob("model_configs/*.json"))
    return _starting(incomplete, ["nano", *(file.stem for file in files)])


def methods(incomplete: str) -> list[str]:
    """Methods, the last of several with commas between."""
    from cafe.methods.catalog import CATALOG

    before, comma, _ = incomplete.rpartition(",")
    return _starting(incomplete, (f"{before}{comma}{name}" for name in CATALOG))


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the runs in the folder of runs."""
    root = Path(context.params.get("runs") or "runs")
    return _starting(incomplete, (path.parent.name for path in root.glob("[!.]*/record.json")))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({n for n in names if n.startswith(incomplete) and not STEERING.search(n)})
