"""What methods need beside a training set, made once for the tests of all methods."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from drawing import DrawnTower, draw_images, draw_task

from cafe.engine import Recipe
from cafe.features.pool import Pool
from cafe.methods.catalog import find_method
from cafe.methods.meta_adapter.training import train_meta
from cafe.methods.meta_adapter.weights import MetaFile, save_meta

_folder = tempfile.TemporaryDirectory(prefix="cafe-needing-")

ABOUT: dict[str, Any] = {
    "encoder": {"model": "drawn", "pretrained": "none", "weights_sha256": None},
    "caches": [{"dataset": "noise", "content_sha256": "0" * 64, "class_names": ["a"], "images": 1}],
    "shots": 4,
    "seed": 0,
    "recipe": {},
    "loss": 0.0,
}


def settings_for(name: str) -> dict[str, Any]:
    """Settings without which a method cannot be made; none for most."""
    made = {
        "meta file": lambda: {"meta": str(meta_file().path)},
        "text tower": draw_tower,
        "pool": draw_pool,
    }
    return made.get(find_method(name).needs, dict)()


def draw_tower() -> dict[str, Any]:
    """A text tower of noise."""
    return {"tower": DrawnTower()}


def draw_pool() -> dict[str, Any]:
    """Unlabelled images of the drawn classes."""
    return {"pool": Pool(draw_images(8, seed=21).x)}


@cache
def meta_file() -> MetaFile:
    """Meta-Adapter's weights, trained on other draws of the drawn classes."""
    trains = [draw_task((6,) * 5, seed=seed) for seed in (11, 12)]
    weights, _ = train_meta(trains, shots=4, recipe=Recipe(lr=1e-3, epochs=2, batch_size=8))
    return save_meta(Path(_folder.name) / "meta.safetensors", weights, ABOUT)
