"""What a GPU gives, and that it computes what the CPU does; eight minutes at most, no downloads.

    python benchmarks/accelerator.py [--device cuda] [--small] [--part NAME]

1. Every method that needs no extra files, fitted on the CPU and on the device on cafe's own digits:
   the largest difference in accuracy. Features of the same images on both, in fp32.
2. Extraction with untrained ViT-B-32, B-16 and L-14 from made-up photographs, beside the bare
   forward pass and the decoder alone, once they run.
3. A grid against the plain loop on the same device, fits a minute, `auto`, and peak memory.

`--small` is a trial of the script itself, for machines without a GPU. The result is written to
`results/accelerator_DEVICE.json` and `.md` (not with `--small`, which prints it). `--part` measures
one part anew, on the machine that measured the others.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grid import GridResult, compare, machine, make_grid, time_engine, wait_for
from PIL import Image

import cafe
import cafe.devices
from cafe.datasets import Dataset, load_dataset
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.quick_resize import build_quick_resize
from cafe.engine import Run, train
from cafe.extract.blocks import ExtractOptions, plan_blocks, read_blocks
from cafe.extract.extract import extract
from cafe.extract.pipeline import decode_ahead, decoder_threads
from cafe.features.tensors import ClassText, Features
from cafe.methods.base import Context
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.clip_adapter.architecture import VisualAdapter

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
SECONDS = 420.0  # after which no further part is begun
LEAST_COSINE, POINTS = 0.9999, 1.0  # of features in fp32; of accuracy at 4 shots, mean of 3 seeds


def made_up_photographs(folder: Path, count: int) -> Dataset:
    """JPEG files of 500 x 375 pixels, smooth with some noise, as photographs are."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        pixels = np.asarray(image).astype(int) + random.integers(-12, 13, (375, 500, 3))
        path = folder / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return load_dataset(str(folder))


def compare_features(device: torch.device) -> dict[str, Any]:
    """Features of 256 digits in fp32: the least cosine, and whether twice gives the same bits."""
    digits = load_dataset("digits")
    here = load_encoder("nano", device="cpu", precision="fp32")
    there = load_encoder("nano", device=str(device), precision="fp32")
    pixels = []
    for item in digits.splits["test"][:256]:
        with digits.open_image(item) as image:
            pixels.append(here.preprocess.pixels(image))
    batch = torch.from_numpy(np.stack(pixels))
    a, b, again = (encoder.encode_pixels(batch) for encoder in (here, there, there))
    cosine = float(torch.nn.functional.cosine_similarity(a, b).min())
    return {"least_cosine": cosine, "same_bits_twice": bool(torch.equal(b, again))}


def compare_methods(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """Mean accuracy of each method on the CPU and on the device, 4 shots of the digits."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        cache = cafe.Extractor("nano").extract("digits", cache=home)
        names = [name for name in CATALOG if not find_method(name).needs]
        for name in names[: 4 if small else None]:
            start, row = time.perf_counter(), {"method": name}
            for key, where in (("cpu", "cpu"), ("device", str(device))):
                try:
                    row[key] = accuracy(cache, name, where)
                except Exception as error:  # one method that fails hides nothing of the others
                    row["error"] = f"{where}: {type(error).__name__}: {error}"[:300]
            rows.append(row)
            print(row, f"{time.perf_counter() - start:.1f} s", flush=True)
    return rows


def accuracy(cache: cafe.FeatureCache, name: str, device: str) -> float:
    """Mean accuracy of a method at 4 shots, 3 seeds."""
    record = cafe.fit(cache, method=name, shots=4, device=device, runs=None)
    (found,) = (result for result in record.results if result.method == name)
    return round(found.accuracy.mean, 2)


def measure_models(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """Images/s of extraction, of the bare forward pass and of the decoder, for each model."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = made_up_photographs(Path(folder), 16 if small else 256)
        items = tuple(item for part in found.splits.values() for item in part)
        dataset = replace(found, splits={"train": items * (1 if small else 40)})
        decoders = decoder_rates(dataset, load_encoder(MODELS[0], "none", device=str(device)))
        print(decoders, flush=True)
        for model in MODELS[: 1 if small else None]:
            encoder = load_encoder(model, "none", device=str(device))
            by_batch = bare_forward(encoder, small)
            bare, whole = max(by_batch.values()), extraction_rate(dataset, encoder)
            row = {"model": model, "precision": encoder.precision, "bare_by_batch": by_batch}
            row |= {"bare_forward": bare, "extract": round(whole)} | decoders
            row["share_of_forward"] = round(whole / bare, 3)
            row["share_of_slower"] = round(whole / min(bare, max(decoders.values())), 3)
            rows.append(row)
            print(row, flush=True)
    return rows


def decoder_rates(dataset: Dataset, encoder: Encoder) -> dict[str, int]:
    """Images/s of the decoder alone, in threads and in processes; all models read 224 x 224."""
    build_quick_resize(sum(map(len, dataset.splits.values())))
    return {
        "decoder_threads": round(decoder_rate(dataset, encoder, in_processes=False)),
        "decoder_processes": round(decoder_rate(dataset, encoder, in_processes=True)),
    }


def bare_forward(encoder: Encoder, small: bool) -> dict[int, int]:
    """Images/s of the forward pass alone, of pixels on the device, by images of a batch."""
    height, width = encoder.preprocess.size
    shape, found = (8 if small else 512, height, width, 3), {}
    pixels = torch.randint(256, shape, dtype=torch.uint8).to(encoder.device)
    for batch in (8,) if small else (64, 128, 192, 256, 512):
        encoder.encode_pixels(pixels[:batch])
        start, times = time.perf_counter(), 1 if small else 8
        for _ in range(times):
            encoder.encode_pixels(pixels[:batch])
        found[batch] = round(batch * times / (time.perf_counter() - start))
    return found


def decoder_rate(dataset: Dataset, encoder: Encoder, *, in_processes: bool) -> float:
    """Images/s of the decoder alone, as extraction runs it, in threads or in processes."""
    blocks = plan_blocks(dataset, encoder, ExtractOptions())
    readers = read_blocks(dataset.without_items(), encoder, blocks, ExtractOptions())
    threads, size = decoder_threads(), blocks[0].batch_size
    stamps, done = [(time.perf_counter(), 0)], 0
    for images in decode_ahead(readers, threads, size, in_processes=in_processes):
        done += len(images)
        stamps.append((time.perf_counter(), done))
    return steady_rate(stamps)


def extraction_rate(dataset: Dataset, encoder: Encoder) -> float:
    """Images/s of an extraction into a cache file."""
    stamps = [(time.perf_counter(), 0)]

    def progress(_: str, done: int, __: int) -> None:
        stamps.append((time.perf_counter(), done))

    sentences = [[name] for name in dataset.class_names]
    with tempfile.TemporaryDirectory() as folder:
        options = ExtractOptions(progress=progress)
        extract(dataset, encoder, Path(folder) / "x.h5", sentences=sentences, options=options)
    return steady_rate(stamps)


def steady_rate(stamps: list[tuple[float, int]]) -> float:
    """Images/s between the first tenth and the end: without what it takes to start."""
    (start, before), (end, done) = stamps[len(stamps) // 10], stamps[-1]
    return (done - before) / (end - start)


def made_up_grid(device: torch.device, small: bool, *, classes: int, seeds: int) -> GridResult:
    """The runs of `grid.py` on made-up features of unit length, 16 images a class, D = 512."""
    width, shots = (64, 4) if small else (512, 16)
    random = torch.Generator().manual_seed(0)
    text = torch.randn(classes, 1, width, generator=random)

    def draw(each: int) -> Features:
        y = torch.arange(classes).repeat_interleave(each)
        x = text[y, 0] + 2.0 * torch.randn(len(y), width, generator=random)
        return Features(torch.nn.functional.normalize(x, dim=-1), y).to(device)

    names = tuple(f"class {number}" for number in range(classes))
    classes_text = ClassText(torch.nn.functional.normalize(text, dim=-1), names, 100.0).to(device)
    return make_grid(classes_text, {"train": draw(shots), "test": draw(300)}, seeds, shots)


def measure_fits(device: torch.device, small: bool) -> dict[str, Any]:
    """The grid against the plain loop, fits a minute, and the seconds of one `auto`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    grid = made_up_grid(device, small, classes=8 if small else 66, seeds=1 if small else 3)
    record = compare(grid, ["fp32", "bf16"], pieces=1, stride=27 if small else 9)
    spent, _, _ = time_engine(grid, "auto")
    auto = find_method("auto")(context=Context(device))
    start = time.perf_counter()
    auto.fit(grid.sets[0], seed=0)
    wait_for(device)
    record["auto_seconds"] = round(time.perf_counter() - start, 2)
    record["large_fit_seconds"] = round(large_fit(device, small), 2)
    record["fits_per_minute"] = round(60 * len(grid.runs) / spent)
    if device.type == "cuda":
        record["peak_gigabytes"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return record


def large_fit(device: torch.device, small: bool) -> float:
    """Seconds of one CLIP-Adapter on made-up features: 1,000 classes of 16 images, D = 512."""
    (large,) = made_up_grid(device, small, classes=40 if small else 1000, seeds=1).sets
    run = Run(VisualAdapter(128), scalars={"ratio": 0.2})
    for _ in range(2):  # the first call loads libraries
        start = time.perf_counter()
        train([run], [large], device=device)
        wait_for(device)
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    fits = result.get("fits", {})
    lines = ["| what | on this device |", "| --- | --- |"]
    for row in result.get("extraction", [])[:1]:
        rates = f"{row['decoder_threads']:,}, {row['decoder_processes']:,}"
        lines.append(f"| decoding alone in threads, in processes, images/s | {rates} |")
    for row in result.get("extraction", []):
        share = f"{100 * row['share_of_forward']:.0f} % of the bare forward pass"
        lines.append(f"| {row['model']}, images/s | {row['extract']:,.0f} ({share}) |")
    if fits:
        lines.append(f"| fits of CLIP-Adapter a minute | {fits['fits_per_minute']:,} |")
        lines += [
            f"| grid, times a plain loop, {name} | {fits['pieces'][0][name]['times_faster']:.1f} |"
            for name in ("fp32", "bf16")
        ]
        lines.append(
            f"| one fit of 1,000 classes x 16 shots, seconds | {fits['large_fit_seconds']} |"
        )
        lines.append(f"| `auto` of 66 classes x 16 shots, seconds | {fits['auto_seconds']} |")
    return "\n".join(lines)


def check(result: dict[str, Any]) -> list[str]:
    """What differs between the CPU and the device by more than noise."""
    wrong = [
        f"{row['method']}: "
        + row.get("error", f"{row.get('cpu')} on the CPU, {row.get('device')} on the device")
        for row in result.get("methods", [])
        if "error" in row or abs(row["cpu"] - row["device"]) > POINTS
    ]
    if result.get("features", {}).get("least_cosine", 1.0) < LEAST_COSINE:
        wrong.append(f"features: cosine {result['features']['least_cosine']}")
    return wrong


def main() -> None:
    """Measure, print, check, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--part", choices=["features", "methods", "fits", "extraction"])
    args = parser.parse_args()
    device, start = cafe.devices.resolve_device(args.device), time.perf_counter()
    result: dict[str, Any] = {"machine": {**machine(device), "cores": os.cpu_count()}}
    if args.part and not args.small:
        result = json.loads(result_file(device).read_text(encoding="utf-8"))
        if result["machine"]["device"] != machine(device)["device"]:
            raise SystemExit(f"the other parts were measured on {result['machine']['device']}.")
    parts = {
        "features": lambda: compare_features(device),
        "methods": lambda: compare_methods(device, args.small),
        "fits": lambda: measure_fits(device, args.small),
        "extraction": lambda: measure_models(device, args.small),
    }
    for name, part in parts.items():
        if args.part not in (None, name):
            continue
        if time.perf_counter() - start < SECONDS:
            result[name] = part()
            print(f"{name}: done after {time.perf_counter() - start:.0f} s", flush=True)
            if not args.small:
                keep(result, device)
    print(json.dumps(result, indent=2), table(result), sep="\n")
    if wrong := check(result):
        raise SystemExit("not the same on both: " + "; ".join(wrong))


def keep(result: dict[str, Any], device: torch.device) -> None:
    """Write what is measured so far."""
    file = result_file(device)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    on = "{device}, {cores} cores, PyTorch {torch}".format_map(result["machine"])
    file.with_suffix(".md").write_text(f"# {on}\n\n{table(result)}\n", encoding="utf-8")


def result_file(device: torch.device) -> Path:
    """Where the result lies."""
    return Path(__file__).parent / f"results/accelerator_{device.type}.json"


if __name__ == "__main__":
    main()
