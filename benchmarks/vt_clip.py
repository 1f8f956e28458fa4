"""VT-CLIP: what it gives on `digits` with `nano`, and what maps of 7 x 7 tokens cost.

    python tools/train_nano.py --fonts DIR --config benchmarks/nano64.json --out nano64 --steps 350
    cp benchmarks/nano64.json nano64/open_clip_config.json
    python benchmarks/vt_clip.py --model nano64 [--images 4000]

`nano` sees an image at one place, so that its map is a single token and attention has no choice:
what is measured there is the residual alone. `nano64` is half as wide, sees 64 x 64 pixels, and has
a map of 2 x 2 tokens; it is not shipped. The costs are those of noise in the form of ViT-B/32's
maps; each step runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grid import machine

import cafe
from cafe.store import Block, Header, write_cache

RESULTS = Path(__file__).parent / "results"
METHODS = ["clip-adapter", "vt-clip"]
SHOTS, SEEDS = [1, 2, 4, 8, 16], 5
CLASSES, WIDTH, TOKENS, BLOCK = 100, 512, 49, 256


def digits(model: str, folder: Path) -> dict[str, Any]:
    """Accuracy by shots, with fixed settings and with those that cross-validation chooses."""
    found: dict[str, Any] = {}
    cache = cafe.Extractor(model, device="cpu", precision="fp32").extract(
        "digits", cache=folder, spatial=7
    )
    for validation in ("none", "cv"):
        record = cafe.fit(
            cache,
            method=METHODS,
            shots=SHOTS,
            seeds=SEEDS,
            validation=validation,  # type: ignore[arg-type]
            device="cpu",
            runs=None,
            **({"ratios": [0.1, 0.2, 0.4, 0.6]} if validation == "cv" else {}),
        )
        for result in record.results:
            row = found.setdefault(validation, {}).setdefault(result.method, {})
            mean, seconds = round(result.accuracy.mean, 2), round(result.seconds / SEEDS, 3)
            row[str(result.shots)] = {"accuracy": mean, "seconds_per_fit": seconds}
    return {"tokens": cache.spatial_size, "bytes": cache.path.stat().st_size, **found}


def blocks(images: int, seed: int) -> Iterator[Block]:
    """Noise around the class texts, in features and in one token of each map."""
    noise = np.random.default_rng(seed)
    texts = np.random.default_rng(0).standard_normal((CLASSES, WIDTH)).astype(np.float16)
    for start in range(0, images, BLOCK):
        rows = np.arange(start, min(start + BLOCK, images))
        labels = (rows % CLASSES).astype(np.int32)
        features = texts[labels] + 4 * noise.standard_normal((len(rows), WIDTH)).astype(np.float16)
        maps = noise.standard_normal((len(rows), TOKENS, WIDTH)).astype(np.float16)
        maps[:, 0] += texts[labels]
        ids = [f"{seed}/{row}" for row in rows]
        yield Block(ids, labels, features.astype(np.float16), None, maps)


def step_write(path: Path, images: int) -> None:
    """Write the file from blocks made on the way."""
    texts = np.random.default_rng(0).standard_normal((CLASSES, 1, WIDTH)).astype(np.float32)
    header = Header(
        key={"spatial": {"grid": [7, 7]}},
        dataset="noise",
        model="noise",
        pretrained="none",
        class_names=tuple(f"class {c}" for c in range(CLASSES)),
        sentences=tuple((f"a photo of class {c}.",) for c in range(CLASSES)),
        text_features=texts,
        logit_scale=100.0,
    )
    write_cache(path, header, {"train": blocks(images, 1), "test": blocks(images, 2)})


def step_fit(path: Path, _: int) -> None:
    """Fit on 4 shots, and on 4 folds of them for the temperature, and test on the test split."""
    cafe.fit(path, method="vt-clip", shots=4, seeds=1, device="cpu", runs=None)


def step_adapter(path: Path, _: int) -> None:
    """The same with CLIP-Adapter, which reads no map."""
    cafe.fit(path, method="clip-adapter", shots=4, seeds=1, device="cpu", runs=None)


STEPS = {"write": step_write, "clip-adapter": step_adapter, "vt-clip": step_fit}


def peak_mb() -> float:
    """Peak memory of this process; what `resource` tells is at least that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def costs(images: int) -> dict[str, Any]:
    """Seconds and peak memory of each step."""
    found: dict[str, Any] = {"images": 2 * images, "tokens": TOKENS, "width": WIDTH}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise" / "noise.none.h5"
        for name in STEPS:
            words = ["--step", name, "--path", str(path), "--images", str(images)]
            made = subprocess.run(  # noqa: S603 - this very script
                [sys.executable, __file__, *words], check=True, capture_output=True, text=True
            )
            found[name] = json.loads(made.stdout)
        found["bytes"] = path.stat().st_size
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [line for name, rows in found["digits"].items() for line in accuracies(name, rows)]
    cost = found["costs"]
    lines += [
        f"{cost['images']:,} images with maps of {TOKENS} x {WIDTH} in float16, {CLASSES} classes: "
        f"{cost['bytes'] / 1e6:,.0f} MB. A fit is of 400 images, five times with the folds that "
        "its temperature is from, and a test of half of the images.",
        "",
        "| step | s | peak MB |",
        "| --- | ---: | ---: |",
        *[f"| {n} | {cost[n]['seconds']:.1f} | {cost[n]['peak_mb']:.0f} |" for n in STEPS],
    ]
    return "\n".join([str(found["machine"]), "", *lines, ""])


def accuracies(name: str, rows: dict[str, Any]) -> list[str]:
    """One encoder's accuracies as Markdown."""
    lines = [
        f"`digits` with `{name}`, maps of {rows['tokens']} token(s), {SEEDS} seeds, top-1 %.",
        "",
        f"| method | validation | {' | '.join(f'{k} shots' for k in SHOTS)} | s a fit, 16 shots |",
        "| --- | --- |" + " ---: |" * (len(SHOTS) + 1),
    ]
    for validation in ("none", "cv"):
        for method in ("zero-shot", *METHODS):
            by_shots = rows[validation][method]
            cells = [f"{by_shots[str(k)]['accuracy']:.2f}" for k in SHOTS]
            seconds = by_shots[str(SHOTS[-1])]["seconds_per_fit"]
            lines.append(f"| {method} | {validation} | {' | '.join(cells)} | {seconds:.2f} |")
    return [*lines, ""]


def main() -> None:
    """Measure all, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--model", help="folder of a second encoder, with a larger map")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--path", type=Path)
    args = parser.parse_args()
    if args.step:
        start = time.perf_counter()
        STEPS[args.step](args.path, args.images)
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}))
        return
    found: dict[str, Any] = {"machine": machine(torch.device("cpu"))}
    with tempfile.TemporaryDirectory() as folder:
        models = ["nano", *([args.model] if args.model else [])]
        found["digits"] = {Path(m).name: digits(m, Path(folder)) for m in models}
    found["costs"] = costs(args.images)
    text = table(found)
    (RESULTS / "vt_clip.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "vt_clip.md").write_text(text)
    print(text)
    for rows in found["digits"].values():
        scores = {name: rows["none"][name]["16"]["accuracy"] for name in ("zero-shot", "vt-clip")}
        assert scores["vt-clip"] > scores["zero-shot"] + 1
    plain, guided = (found["costs"][name]["peak_mb"] for name in METHODS)
    assert guided - plain < found["costs"]["bytes"] / 1e6  # maps are read block by block


if __name__ == "__main__":
    main()
