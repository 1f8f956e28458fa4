"""cafe: adapt CLIP to a new visual task in seconds, on cached features.

The names below are the library. Each is imported from its module when it is first used, so that
`import cafe` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cafe.comparing import compare
    from cafe.datasets import load_dataset
    from cafe.encoders import load_encoder
    from cafe.errors import CafeError
    from cafe.features import load_task
    from cafe.fitting import fit
    from cafe.importing import import_npz
    from cafe.results import load_head
    from cafe.store import FeatureCache

_HOMES = {
    "CafeError": "cafe.errors",
    "FeatureCache": "cafe.store",
    "compare": "cafe.comparing",
    "fit": "cafe.fitting",
    "import_npz": "cafe.importing",
    "load_dataset": "cafe.datasets",
    "load_encoder": "cafe.encoders",
    "load_head": "cafe.results",
    "load_task": "cafe.features",
}

__all__ = [
    "CafeError",
    "FeatureCache",
    "compare",
    "fit",
    "import_npz",
    "load_dataset",
    "load_encoder",
    "load_head",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cafe' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
