"""cafe: adapt CLIP to a new visual task in seconds, on cached features.

The names below are the library. Each is imported from its module when it is first used, so that
`import cafe` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # "as" tells type checkers that a name is public
    __version__: str
    from cafe.curation.check import check as check
    from cafe.curation.next_images import next_images as next_images
    from cafe.curation.relabel import relabel as relabel
    from cafe.datasets import load_dataset as load_dataset
    from cafe.encoders.encoder import load_encoder as load_encoder
    from cafe.errors import CafeError as CafeError
    from cafe.extract.extractor import Extractor as Extractor
    from cafe.extract.importers import import_features as import_features
    from cafe.extract.transformer import CLIPFeatures as CLIPFeatures
    from cafe.features.task import load_task as load_task
    from cafe.inference.export import export_head as export_head
    from cafe.inference.model import Model as Model
    from cafe.inference.model import load_model as load_model
    from cafe.inference.predictor import Predictor as Predictor
    from cafe.inference.train import train as train
    from cafe.report import write_report as write_report
    from cafe.results.run_folders import load_record as load_record
    from cafe.results.saved_head import load_head as load_head
    from cafe.store import FeatureCache as FeatureCache
    from cafe.study.classifier import AdapterClassifier as AdapterClassifier
    from cafe.study.compare import compare as compare
    from cafe.study.fit import fit as fit
    from cafe.study.grid.run import grid as grid
    from cafe.study.meta_train import meta_train as meta_train

_MODULES = {
    "AdapterClassifier": "cafe.study.classifier",
    "CLIPFeatures": "cafe.extract.transformer",
    "CafeError": "cafe.errors",
    "Extractor": "cafe.extract.extractor",
    "FeatureCache": "cafe.store",
    "Model": "cafe.inference.model",
    "Predictor": "cafe.inference.predictor",
    "check": "cafe.curation.check",
    "compare": "cafe.study.compare",
    "export_head": "cafe.inference.export",
    "fit": "cafe.study.fit",
    "grid": "cafe.study.grid.run",
    "import_features": "cafe.extract.importers",
    "load_dataset": "cafe.datasets",
    "load_encoder": "cafe.encoders.encoder",
    "load_head": "cafe.results.saved_head",
    "load_model": "cafe.inference.model",
    "load_record": "cafe.results.run_folders",
    "load_task": "cafe.features.task",
    "meta_train": "cafe.study.meta_train",
    "next_images": "cafe.curation.next_images",
    "relabel": "cafe.curation.relabel",
    "train": "cafe.inference.train",
    "write_report": "cafe.report",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("cafe-clip")
    if name not in _MODULES:
        raise AttributeError(f"module 'cafe' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
