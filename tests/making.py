"""Making what many tests need: small images, datasets and caches of noise."""

from pathlib import Path

import numpy as np
from PIL import Image

from cafe.datasets.dataset import Dataset, Item
from cafe.store import Block, Header

TINY = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
}


def draw_image(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """Smooth colours that differ with the seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def make_dataset(root: Path, sizes: dict[str, int], name: str = "shapes") -> Dataset:
    """A dataset of PNG files, two classes in turn."""
    splits: dict[str, tuple[Item, ...]] = {}
    for number, (split, count) in enumerate(sizes.items()):
        items = []
        for row in range(count):
            path = root / split / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_image(1000 * number + row).save(path, compress_level=1)
            items.append(Item(f"{split}/{row}.png", row % 2, path.stat().st_size))
        splits[split] = tuple(items)
    return Dataset(name, ("disc", "square"), splits, ("a {}.",), root, "drawn for a test")


def make_header(classes: int = 3, width: int = 8, prompts: int = 2, **changes: object) -> Header:
    """A header of noise."""
    text = np.random.default_rng(1).standard_normal((classes, prompts, width), np.float32)
    values: dict[str, object] = {
        "key": {"weights_sha256": "0" * 64, "precision": "fp32"},
        "dataset": "noise",
        "model": "tiny",
        "pretrained": "none",
        "class_names": tuple(f"class {c}" for c in range(classes)),
        "sentences": tuple(tuple(f"{c} {p}" for p in range(prompts)) for c in range(classes)),
        "text_features": text,
        "logit_scale": 100.0,
    }
    return Header(**{**values, **changes})  # type: ignore[arg-type]


def make_block(
    rows: int, width: int = 8, start: int = 0, views: int = 0, dtype: str = "float32"
) -> Block:
    """A block of noise, labels 0, 1, 2 in turn."""
    noise = np.random.default_rng(start)
    features = noise.standard_normal((rows, width)).astype(dtype)
    augmented = noise.standard_normal((rows, views, width)).astype(dtype) if views else None
    ids = [f"{row}.png" for row in range(start, start + rows)]
    return Block(ids, np.arange(rows, dtype=np.int32) % 3, features, augmented)
