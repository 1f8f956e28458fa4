"""What counterfactuals bring CLIP-Adapter on real features (`cafe fit --counterfactual`).

    python benchmarks/counterfactual.py [--features DIR] [--seeds 3] [-o FILE.json]

Ratio 0.2, bottleneck D/4, no validation; the same shots, starts and batch orders with and without,
so differences are paired by seed. Weight 1 is the default of `--counterfactual`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import cafe
from cafe.features.splits import draw_shots
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.results.metrics import accuracy, summarize
from cafe.store.paths import named_path

FEATURES = Path(__file__).parents[2] / "shared/data/features"
NAMES = ("whu-rs19.ViT-B-32.openai", "caltech101-66.ViT-B-32.openai")
SHOTS = (1, 4, 16)
WEIGHTS = (0.0, 0.3, 1.0, 3.0)


def measure(features: Path, seeds: int) -> list[dict[str, Any]]:
    """One row per file, shot count and weight."""
    rows = []
    for name in NAMES:
        dataset, _, encoder = name.partition(".")
        with tempfile.TemporaryDirectory() as home:
            path = named_path(Path(home), f"{dataset}/{encoder}")
            task = cafe.load_task(cafe.import_features(features / f"{name}.npz", path))
            train, test = task.splits["train"], task.splits["test"]
            for shots in SHOTS:
                chosen = [draw_shots(train.y, shots, seed) for seed in range(seeds)]
                sets = [TrainingSet(train[one], task.text) for one in chosen]
                plain: list[float] = []
                for weight in WEIGHTS:
                    start = time.perf_counter()
                    heads = ClipAdapter(0.2, counterfactual=weight, context=Context()).fit_many(
                        [Job(one, seed=seed) for seed, one in enumerate(sets)]
                    )
                    seconds = (time.perf_counter() - start) / seeds
                    scores = [accuracy(head.logits(test.x), test.y) for head in heads]
                    plain = plain or scores
                    gains = summarize([b - a for a, b in zip(plain, scores, strict=True)])
                    row = {"features": name, "shots": shots, "weight": weight}
                    row |= {"accuracy": sum(scores) / seeds, "per_seed": scores}
                    row |= {"gain": gains.mean, "gain_ci95": gains.ci95, "seconds_a_fit": seconds}
                    rows.append(row)
                    print(json.dumps(row))
    return rows


def main() -> None:
    """Measure, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, default=FEATURES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if not arguments.features.is_dir():
        sys.exit(f"no feature files in {arguments.features}; say where with --features DIR.")
    load = os.getloadavg()[0]
    rows = measure(arguments.features, arguments.seeds)
    if arguments.output:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "load_at_start": load,
            "torch": torch.__version__,
        }
        text = json.dumps({"machine": machine, "seeds": arguments.seeds, "rows": rows}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
