"""`cafe fit` of many classes on two cores: time and peak memory of the command as a user types it.

    python benchmarks/many_classes.py [--only 20000x1]

Load on the machine stretches the time; `cpu_seconds` counts what the command itself worked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from large_cache import blocks

RESULTS = Path(__file__).parent / "results" / "many_classes.json"
WIDTH, TEST_IMAGES = 512, 50_000
CASES = {  # classes, images per class, arguments
    "20000x1": (20_000, 1, []),  # all defaults: three methods, three seeds, 50 epochs
    "1000x16": (1000, 16, []),
}
MOST_BYTES, MOST_CPU_SECONDS = 4e9, 2 * 300


def write(home: Path, classes: int, shots: int) -> None:
    """A synthetic cache, `many/noise.none`."""
    from cafe.store import Header, write_cache

    centres = np.random.default_rng(0).standard_normal((classes, 1, WIDTH), np.float32)
    names = tuple(f"class {number}" for number in range(classes))
    header = Header(
        key={"synthetic": True},
        dataset="many",
        model="noise",
        pretrained="none",
        class_names=names,
        sentences=tuple((f"a photo of {name}.",) for name in names),
        text_features=centres,
        logit_scale=100.0,
    )
    sizes = {"train": classes * shots, "test": TEST_IMAGES}
    splits = {s: blocks(n, classes, WIDTH, seed) for seed, (s, n) in enumerate(sizes.items(), 1)}
    write_cache(home / "many/noise.none.h5", header, splits)  # type: ignore[arg-type]


def measure(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Run the command in a process of its own and tell what it took."""
    words = ["fit", "many/noise.none", *arguments, "--cache", str(folder), "--runs", str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cafe_cli", *words])  # noqa: S603
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
    }


def main() -> None:
    """Run every case and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES)
    only = parser.parse_args().only
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    for name, (classes, shots, arguments) in CASES.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), classes, shots)
                taken = measure(Path(folder), arguments)
            found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            found[name] = {**taken, "load": round(os.getloadavg()[0], 1)}
            print(name, found[name])
            assert 1e6 * taken["peak_mb"] < MOST_BYTES
            assert taken["cpu_seconds"] < MOST_CPU_SECONDS
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
