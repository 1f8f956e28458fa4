"""Extraction against the bare forward pass, the decoder alone, and a plain loop.

    python benchmarks/extract.py FOLDER [--model ViT-B-32] [--precision fp32] [--limit 1024]

All are measured in turn, in the same process, twice over; the ratios are of the best rounds,
so that a busy machine disturbs them less; processor milliseconds an image suffer least. FOLDER is
any dataset that `cafe extract` takes; a small one is taken several times over, so that what is
measured is the rate, not the start.

A share of the matmul rate is the floating-point operations of the tower's products a second, over
the rate of square matrix products on all cores in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forward import operations
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cafe.datasets import Dataset, Item, load_dataset
from cafe.devices import product_rate, torch_threads
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.quick_resize import build_quick_resize
from cafe.extract.blocks import ExtractOptions, plan_blocks
from cafe.extract.decode import DecodedImage, decode_item, map_ahead
from cafe.extract.extract import extract

ROUNDS = 2
BATCHES = (16, 32, 64, 256)


class Images(TorchDataset[torch.Tensor]):
    """What one writes without cafe: one image at a time, as open_clip's transform gives it."""

    def __init__(self, dataset: Dataset, items: tuple[Item, ...], encoder: Encoder) -> None:
        from cafe.compat import import_open_clip

        transform = import_open_clip().transform
        config = transform.PreprocessCfg(**encoder.preprocess.config)
        self._transform = transform.image_transform_v2(config, is_train=False)
        self._dataset, self._items = dataset, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> torch.Tensor:
        with self._dataset.open_image(self._items[row]) as image:
            pixels: torch.Tensor = self._transform(image.convert("RGB"))
        return pixels


def seconds(work: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best_batch(encoder: Encoder, pixels: torch.Tensor) -> int:
    """The batch size that serves the bare forward pass best."""

    def rate(size: int) -> float:
        encoder.encode_pixels(pixels[:size])
        times = max(1, len(pixels) // size)
        return (
            size
            * times
            / seconds(lambda: [encoder.encode_pixels(pixels[:size]) for _ in range(times)])
        )

    return max((size for size in BATCHES if size <= len(pixels)), key=rate)


def measure(
    dataset: Dataset, encoder: Encoder, plain: Encoder, cores: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Best images/s of each way, and its fewest processor milliseconds an image."""
    items = dataset.splits["train"]
    options = ExtractOptions()
    batch = plan_blocks(dataset, encoder, options)[0].batch_size
    parts = [items[start : start + batch] for start in range(0, len(items), batch)]

    def decode_all(part: tuple[Item, ...]) -> list[DecodedImage]:
        return [decode_item(dataset, item, encoder.preprocess) for item in part]

    first = decode_all(items[: max(BATCHES)])
    pixels = torch.from_numpy(np.stack([image.views[0] for image in first]))  # type: ignore[index]
    size = best_batch(encoder, pixels)

    def bare() -> None:
        for start in range(0, len(items), size):
            encoder.encode_pixels(pixels[: min(size, len(items) - start)])

    def bare_by_core() -> None:
        with torch_threads(1), ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda part: encoder.encode_pixels(pixels[: len(part)]), parts))

    def decode() -> None:
        for _ in map_ahead(decode_all, parts, cores):
            pass

    def whole() -> None:
        sentences = [[name] for name in dataset.class_names]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.h5"
            extract(dataset, encoder, path, sentences=sentences, options=options)

    @torch.inference_mode()
    def loop() -> None:
        for images in DataLoader(Images(dataset, items, plain), batch_size=32):
            plain._network.encode_image(images.to(plain.device))

    ways = {"bare forward": bare, "decoder": decode, "extract": whole, "plain loop": loop}
    if encoder.device.type == "cpu":
        ways["bare forward, a core each"] = bare_by_core
    best, busy = (dict.fromkeys(ways, float("inf")) for _ in range(2))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            best[name] = min(best[name], seconds(way))
            busy[name] = min(busy[name], time.process_time() - start)
            print(f"{name:25} {len(items) / best[name]:8.1f} images/s at best", flush=True)
    return (
        {name: round(len(items) / value, 1) for name, value in best.items()},
        {name: round(1000 * value / len(items), 2) for name, value in busy.items()},
    )


def images_at_matmul_rate(encoder: Encoder, plain: Encoder) -> float:
    """Images/s, if the tower's products ran at the rate of square matrix products."""
    height, width = encoder.preprocess.size
    pixels = torch.zeros((1, height, width, 3), dtype=torch.uint8)
    kind = encoder.standardized(pixels).dtype
    rate = max(product_rate(encoder.device, kind, size) for size in (512, 1024, 2048))
    # of open_clip's own parts: oneDNN's fused products are not counted
    return rate / operations(plain._network.visual, plain.standardized(pixels))


def main() -> None:
    """Measure, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained", default="none")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--limit", type=int, default=1024)
    args = parser.parse_args()
    found = load_dataset(args.dataset)
    everything = tuple(item for items in found.splits.values() for item in items)
    step, times = max(1, len(everything) // args.limit), -(-args.limit // len(everything))
    chosen = (everything[::step] * times)[: args.limit]
    dataset = replace(found, splits={"train": chosen})
    pretrained = None if args.model == "nano" else args.pretrained
    encoder = load_encoder(args.model, pretrained, precision=args.precision)
    build_quick_resize(args.limit)
    plain = load_encoder(args.model, pretrained, precision="fp32")
    bound = images_at_matmul_rate(encoder, plain)
    rates, busy = measure(dataset, encoder, plain, os.cpu_count() or 1)
    bound = max(bound, images_at_matmul_rate(encoder, plain))
    result = {
        "dataset": found.name,
        "images": len(dataset.splits["train"]),
        "model": args.model,
        "precision": encoder.precision,
        "device": str(encoder.device),
        "images_per_second": rates,
        "processor_ms_per_image": busy,
        "images_per_second_at_matmul_rate": round(bound, 1),
        "extract_of_matmul_rate": round(rates["extract"] / bound, 3),
        "bare_forward_of_matmul_rate": round(rates["bare forward"] / bound, 3),
        "extract_of_bare_forward": round(rates["extract"] / rates["bare forward"], 3),
        "extract_of_decoder": round(rates["extract"] / rates["decoder"], 3),
        "extract_of_plain_loop": round(rates["extract"] / rates["plain loop"], 2),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    name = f"extract_{args.model}.{encoder.precision}.{encoder.device.type}.json"
    (folder / name).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
