"""Measure what `cafe train` promises: its estimate beside the accuracy on images it never saw.

    python benchmarks/train.py [--features DIR] [--eurosat CACHE] [--draws 60]
        [--first 0] [-o FILE]

From each set of real features 60 small training sets are drawn, images as they come. Each is
trained on as `cafe train` does, without any label but its own; then the estimate stands beside the
accuracy on all other images of the set. Other methods are fitted on the same draws with their
defaults, so that the default of `cafe train` can be judged. EuroSAT is seen by `nano`
(`cafe extract --dataset eurosat --model nano`), which knows no photograph.

Asserts that the 95 % interval holds the accuracy in 85 % of the draws of every set, that the
estimate is on average within 1 point of it, and that no method alone is better on average than what
`cafe train` keeps by more than 0.5. Writes FILE.json and
FILE.md; run again with the same FILE, it goes on there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from cells import make_parser
from grid import machine
from torch import Tensor

from cafe.features.task import Task, load_task
from cafe.features.tensors import ClassText, Features, TrainingSet, join
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.results.image_scores import ImageScores
from cafe.store import FeatureCache
from cafe.study.fit_on_all import DEFAULT_METHODS, fit_on_all
from cafe.study.score_head import score_head

FILES = {  # splits of plain images, and images of a draw
    "caltech101-66.ViT-B-32.openai": (("val", "test"), 264),
}
EUROSAT = (200, 60)
ALONE = (
    "auto",
    "map-probe",
    "zero-shot",
    "clip-adapter",
    "gda",
    "lda-prior",
    "nearest-class",
)
COVERAGE, BIAS, BETTER = 85.0, 1.0, 0.5


class Pool(NamedTuple):
    """All images of a set, and how many a draw has."""

    name: str
    text: ClassText
    images: Features
    size: int


def read_pools(folder: Path, eurosat: Path | None) -> list[Pool]:
    """The sets that are there."""
    pools = []
    for name, (splits, size) in FILES.items():
        with np.load(folder / f"{name}.npz") as file:
            x = np.concatenate([file[f"{split}_features"] for split in splits])
            y = np.concatenate([file[f"{split}_labels"] for split in splits])
            prompts = torch.from_numpy(file["text_prompts"]).float()
            names, scale = tuple(map(str, file["class_names"])), float(file["logit_scale"])
        images = Features(torch.from_numpy(x).float(), torch.from_numpy(y))
        pools.append(Pool(name, ClassText(prompts, names, scale), images, size))
    if eurosat is not None:
        task = load_task(FeatureCache.open(eurosat))
        images = join([split.to("cpu") for split in task.splits.values()])
        pools = [*(Pool("eurosat.nano", task.text, images, n) for n in EUROSAT), *pools]
    return pools


def draw(pool: Pool, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of a training set, as they come, and all other rows."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pool.images)))
    return order[: pool.size], order[pool.size :]


def measure(pool: Pool, seed: int) -> dict[str, Any]:
    """One draw: the estimate, and what is true of it."""
    drawn, unused = draw(pool, seed)
    train, test = pool.images[drawn], pool.images[unused]
    start = time.perf_counter()
    fitted = fit_on_all(Task(pool.name, "", "", pool.text, {"train": train}))
    seconds = time.perf_counter() - start
    estimate, classes = fitted.estimate, len(pool.text.names)
    assert estimate is not None
    assert fitted.calibration.temperature is not None
    seen: ImageScores = score_head(
        fitted.head, test, classes, temperature=fitted.calibration.temperature
    )
    alone = {}
    for name in ALONE:
        head = make_method(name, Context(), {}).fit(TrainingSet(train, pool.text))
        alone[name] = round(score_head(head, test, classes).accuracy, 3)
    return {
        "seed": seed,
        "kept": fitted.head.method,
        "estimate": round(estimate.accuracy, 3),
        "low": round(estimate.low, 3),
        "high": round(estimate.high, 3),
        "judged": estimate.images,
        "unused": len(test),
        "accuracy": round(seen.accuracy, 3),
        "ece": round(seen.expected_calibration_error(), 3),
        "ece_calibrated": round(seen.expected_calibration_error(calibrated=True), 3),
        "seconds": round(seconds, 2),
        "alone": alone,
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether the interval holds the accuracy."""
    return bool(row["low"] <= row["accuracy"] <= row["high"])


def check(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What does not hold of what was aimed at; nothing where all does."""
    broken = []
    for name, rows in found.items():
        coverage = 100 * mean(map(holds, rows))
        bias = mean(row["estimate"] - row["accuracy"] for row in rows)
        if coverage < COVERAGE:
            broken.append(f"the interval holds in {coverage:.0f} % of the draws of {name}")
        if abs(bias) > BIAS:
            broken.append(f"the estimate is {bias:+.2f} points off on {name}")
    kept, others = averages(found)
    broken += [
        f"{name} alone is {other - kept:+.2f} to what is kept"
        for name, other in others.items()
        if other > kept + BETTER
    ]
    return broken


def averages(found: dict[str, list[dict[str, Any]]]) -> tuple[float, dict[str, float]]:
    """Mean accuracy over sets of what is kept, and of each method alone."""
    kept = mean(mean(row["accuracy"] for row in rows) for rows in found.values())
    alone = {
        name: mean(mean(row["alone"][name] for row in rows) for rows in found.values())
        for name in ALONE
    }
    return kept, alone


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """Two Markdown tables: the estimates, and the methods."""
    head = "| set, images drawn | unused | estimate | accuracy | difference | half-width | holds |"
    lines = [f"{head} ECE before | after |", "| --- " * 9 + "|"]
    for name, rows in found.items():
        average = {
            key: mean(row[key] for row in rows)
            for key in ("estimate", "accuracy", "ece", "ece_calibrated", "unused")
        }
        half = mean(row["high"] - row["low"] for row in rows) / 2
        lines.append(
            f"| {name} | {average['unused']:,.0f} | {average['estimate']:.2f} | "
            f"{average['accuracy']:.2f} | {average['estimate'] - average['accuracy']:+.2f} | "
            f"{half:.1f} | {sum(map(holds, rows))} of {len(rows)} | {average['ece']:.1f} | "
            f"{average['ece_calibrated']:.1f} |"
        )
    kept, alone = averages(found)
    lines += ["", f"| | average | {' | '.join(found)} |", "| --- " * (2 + len(found)) + "|"]
    best = [mean(row["accuracy"] for row in rows) for rows in found.values()]
    label = f"the better of {' and '.join(DEFAULT_METHODS)}"
    lines.append(f"| {label} | {kept:.2f} | {' | '.join(f'{v:.2f}' for v in best)} |")
    for name in sorted(ALONE, key=lambda name: -alone[name]):
        values = [mean(row["alone"][name] for row in rows) for rows in found.values()]
        cells = " | ".join(f"{v:.2f}" for v in values)
        lines.append(f"| {name} | {alone[name]:.2f} | {cells} |")
    return "\n".join(lines)


def write(output: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    """Write what is measured so far; run again with the same FILE, the script goes on there."""
    about = machine(torch.device("cpu"))
    output.with_suffix(".json").write_text(json.dumps({"machine": about, "sets": found}) + "\n")
    if all(found.values()):
        output.with_suffix(".md").write_text(f"{about}\n\n{tables(found)}\n")


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__)
    parser.add_argument("--eurosat", type=Path, help="cache of EuroSAT under nano")
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    if given.output and given.output.with_suffix(".json").is_file():
        found = json.loads(given.output.with_suffix(".json").read_text())["sets"]
    for pool in read_pools(given.features, given.eurosat):
        name = f"{pool.name}, {pool.size}"
        rows = found.setdefault(name, [])
        for seed in sorted(set(range(given.first, given.draws)) - {row["seed"] for row in rows}):
            rows.append(measure(pool, seed))
            print(name, rows[-1], flush=True)
            if given.output:
                write(given.output, found)
    if given.output:
        write(given.output, found)
    print(tables(found))
    if broken := check(found):
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
