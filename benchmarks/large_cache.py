"""A synthetic cache of ImageNet's size: time and peak memory of everything that is done with it.

    python benchmarks/large_cache.py [--images 1281167] [--classes 1000] [--width 512]
    python benchmarks/large_cache.py --against ../cafe-before --step fit_16 --step export

Each step runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

BLOCK = 4096
RESULTS = Path(__file__).parent / "results" / "large_cache.json"
COMPARED = RESULTS.with_name("large_cache_compared.json")


def blocks(images: int, classes: int, width: int, seed: int) -> Iterator[object]:
    """Noise around one centre per class, sorted by class as image folders are."""
    from cafe.store import Block

    noise = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((classes, width), np.float32)
    for start in range(0, images, BLOCK):
        rows = np.arange(start, min(start + BLOCK, images))
        labels = (rows * classes // images).astype(np.int32)
        features = centres[labels] + 2 * noise.standard_normal((len(rows), width), np.float32)
        pairs = zip(rows, labels, strict=True)
        ids = [f"n{label:08d}/n{label:08d}_{row}.JPEG" for row, label in pairs]
        yield Block(ids, labels, features.astype(np.float16))


def step_write(path: Path, args: argparse.Namespace) -> None:
    """Write the file from blocks made on the way."""
    from cafe.store import Header, write_cache

    centres = np.random.default_rng(0).standard_normal((args.classes, 1, args.width), np.float32)
    header = Header(
        key={"synthetic": True},
        dataset="synthetic",
        model="noise",
        pretrained="none",
        class_names=tuple(f"class {c}" for c in range(args.classes)),
        sentences=tuple((f"a photo of class {c}.",) for c in range(args.classes)),
        text_features=centres,
        logit_scale=100.0,
    )
    shape = (args.classes, args.width)
    splits = {"train": blocks(args.images, *shape, 1), "test": blocks(args.images // 25, *shape, 2)}
    write_cache(path, header, splits)  # type: ignore[arg-type]


def step_open(path: Path, _: argparse.Namespace) -> None:
    """Open and check the file, read no features."""
    from cafe.store import FeatureCache

    FeatureCache.open(path)


def step_load(path: Path, _: argparse.Namespace) -> None:
    """Read the whole training split in half precision."""
    from cafe.store import FeatureCache

    FeatureCache.open(path).read("train")


def step_load_float32(path: Path, _: argparse.Namespace) -> None:
    """Read the whole training split in single precision."""
    from cafe.store import FeatureCache

    FeatureCache.open(path).read("train", dtype=np.float32)


def step_draw_16(path: Path, args: argparse.Namespace) -> None:
    """Read 16 training images of each class and nothing else."""
    from cafe.store import FeatureCache

    cache = FeatureCache.open(path)
    labels = cache.labels("train")
    noise = np.random.default_rng(0)
    rows = [noise.choice(np.flatnonzero(labels == c), 16) for c in range(args.classes)]
    cache.read("train", np.concatenate(rows), dtype=np.float32)


def step_nearest_class(path: Path, args: argparse.Namespace) -> None:
    """Class means over the whole training split, a few megabytes at a time."""
    from cafe.store import FeatureCache

    sums = np.zeros((args.classes, args.width), np.float32)
    for block in FeatureCache.open(path).blocks("train"):
        classes, starts = np.unique(block.labels, return_index=True)  # they are sorted
        sums[classes] += np.add.reduceat(block.features.astype(np.float32), starts)


def step_fit_16(path: Path, _: argparse.Namespace) -> None:
    """`cafe fit`: zero-shot, class means and an adapter of 16 shots, tested on 51,000 images."""
    import cafe

    cafe.fit(path, shots=16, seeds=1, runs=None)


def step_fit_all(path: Path, _: argparse.Namespace) -> None:
    """`cafe fit --shots all --epochs 1`: the adapter sees every training image once."""
    import cafe

    cafe.fit(path, shots="all", seeds=1, epochs=1, runs=None)


def step_verify(path: Path, _: argparse.Namespace) -> None:
    """Recompute every checksum and check all values."""
    from cafe.store import verify_cache

    assert verify_cache(path).problems == ()


def step_export(path: Path, _: argparse.Namespace) -> None:
    """`cafe cache export` to an npz file."""
    from cafe.store import FeatureCache
    from cafe.store.conversion import export_cache

    export_cache(FeatureCache.open(path), path.with_name("large.npz"))


def step_import(path: Path, _: argparse.Namespace) -> None:
    """`cafe cache import` of that npz file, which is then removed."""
    from cafe.extract.importers import import_features

    exported = path.with_name("large.npz")
    import_features(exported, path.with_name("imported") / "noise.none.h5")
    exported.unlink()


def step_merge(path: Path, _: argparse.Namespace) -> None:
    """`cafe cache merge` of the cache and a small one."""
    from cafe.store import FeatureCache, write_cache
    from cafe.store.merge import merge_caches

    cache, small = FeatureCache.open(path), path.with_name("small") / "noise.none.h5"
    block = next(cache.blocks("test"))
    write_cache(
        small, cache.header, {"test": [replace(block, ids=[f"new {i}" for i in block.ids])]}
    )
    merge_caches([cache, FeatureCache.open(small)], path.with_name("merged") / "noise.none.h5")


STEPS = {
    name.removeprefix("step_"): function
    for name, function in globals().copy().items()
    if name.startswith("step_")
}


def run_step(name: str, path: Path, args: argparse.Namespace) -> None:
    """Run one step in this process and print its time and peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    STEPS[name](path, args)
    found = {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_mb_above_import": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        // 1024,
    }
    print(json.dumps(found))


def compare(names: list[str], before: Path, args: argparse.Namespace) -> None:
    """Run steps with another checkout's cafe and with this one's at the same time."""
    sizes = [f"--{n}={getattr(args, n)}" for n in ("images", "classes", "width")]
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.h5"
        run_step("write", large, args)
        for name in names:
            running = {}
            for version, root in (("before", before), ("after", Path(__file__).parents[1])):
                path = Path(folder) / version / "large.h5"
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    path.hardlink_to(large)
                command = [sys.executable, __file__, "--step", name, "--path", str(path), *sizes]
                environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
                running[version] = subprocess.Popen(  # noqa: S603
                    command, env=environment, stdout=subprocess.PIPE, text=True
                )
            outputs = {version: process.communicate()[0] for version, process in running.items()}
            found[name] = {version: json.loads(text) for version, text in outputs.items()}
            found[name]["load"] = round(os.getloadavg()[0], 1)
            print(name, found[name])
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    COMPARED.write_text(json.dumps({"steps": found, "machine": machine}, indent=2) + "\n")


def main() -> None:
    """Run every step and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--step", choices=list(STEPS), action="append")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout, to compare --step with")
    args = parser.parse_args()
    if args.against:
        compare(args.step or ["fit_16", "export", "import", "merge"], args.against, args)
        return
    if args.step:
        run_step(args.step[0], args.path, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5"
        found = {}
        for name in STEPS:
            command = [sys.executable, __file__, "--step", name, "--path", str(path)]
            sizes = [f"--{n}={getattr(args, n)}" for n in ("images", "classes", "width")]
            output = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)  # noqa: S603
            found[name] = json.loads(output.stdout)
            print(f"{name:15} {found[name]}")
        megabytes = path.stat().st_size / 1e6
    # what is read is held once, and a few megabytes beside it
    raw = args.images * args.width * 2 / 1e6
    assert found["load"]["peak_mb_above_import"] < 1.2 * raw + 100
    assert found["fit_all"]["peak_mb_above_import"] < 2 * raw + 50
    assert found["draw_16"]["peak_mb_above_import"] < 200
    assert found["nearest_class"]["peak_mb_above_import"] < 200
    for name in ("export", "import", "merge"):  # ids are held, a few hundred bytes each
        assert found[name]["peak_mb_above_import"] < 0.4 * raw + 100
    assert found["verify"]["peak_mb_above_import"] < 0.2 * raw + 200
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    load = round(os.getloadavg()[0], 1)
    result = {"images": args.images, "classes": args.classes, "width": args.width}
    result |= {"file_mb": round(megabytes), "steps": found, "machine": machine, "load": load}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**result, "numpy": np.__version__}, indent=2) + "\n")


if __name__ == "__main__":
    main()
