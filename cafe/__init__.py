"""cafe: adapt CLIP to a new visual task in seconds, on cached features.

The names below are the library. Each is imported from its module when it is first used, so that
`import cafe` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cafe.classifier import AdapterClassifier
    from cafe.comparing import compare
    from cafe.datasets import load_dataset
    from cafe.encoders import load_encoder
    from cafe.errors import CafeError
    from cafe.export import export_head
    from cafe.extractor import Extractor
    from cafe.fitting import fit, grid
    from cafe.heads import load_head
    from cafe.importing import import_features
    from cafe.meta import meta_train
    from cafe.predict import Predictor
    from cafe.report import write_report
    from cafe.store import FeatureCache
    from cafe.task import load_task

_HOMES = {
    "AdapterClassifier": "cafe.classifier",
    "CafeError": "cafe.errors",
    "Extractor": "cafe.extractor",
    "FeatureCache": "cafe.store",
    "Predictor": "cafe.predict",
    "compare": "cafe.comparing",
    "export_head": "cafe.export",
    "fit": "cafe.fitting",
    "grid": "cafe.fitting",
    "import_features": "cafe.importing",
    "load_dataset": "cafe.datasets",
    "load_encoder": "cafe.encoders",
    "load_head": "cafe.heads",
    "load_task": "cafe.task",
    "meta_train": "cafe.meta",
    "write_report": "cafe.report",
}

__all__ = [
    "AdapterClassifier",
    "CafeError",
    "Extractor",
    "FeatureCache",
    "Predictor",
    "compare",
    "export_head",
    "fit",
    "grid",
    "import_features",
    "load_dataset",
    "load_encoder",
    "load_head",
    "load_task",
    "meta_train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cafe' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
