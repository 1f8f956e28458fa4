"""The pictures of the documentation, from real features; needs matplotlib.

Run it as `python benchmarks/figures.py [--features DIR]`. It writes docs/img/*.svg.

Accuracy over shots is drawn from `results/auto.json` (`benchmarks/auto.py --all`: 9 seeds, or 3,
without validation labels). The paper's two ablations are measured here and kept in
`results/figures.json`: 16 shots, 3 seeds, each point the mean test accuracy of one fixed
configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import cafe
from cafe.features.task import Task, load_task
from cafe.results.metrics import summarize
from cafe.store.paths import named_path
from cafe.study.plan import StudyPlan
from cafe.study.runner import run_study

ROOT = Path(__file__).parents[1]
FEATURES = ROOT.parent / "shared/data/features"
SETS = {
    "WHU-RS19, ViT-B/32": "whu-rs19.ViT-B-32",
    "WHU-RS19, RN50": "whu-rs19.RN50",
    "Caltech101, 66 classes, ViT-B/32": "caltech101-66.ViT-B-32",
}
SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
BOTTLENECKS = ("D", "D/2", "D/4", "D/8", "D/16", "D/32")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STYLE = {
    "zero-shot": ("zero-shot", "#7f7f7f", ":"),
    "nearest-class": ("nearest class mean", "#0072b2", "--"),
    "ratio 0.2": ("CLIP-Adapter, ratio 0.2", "#d55e00", "-"),
    "auto": ("cafe's auto", "#009e73", "-"),
}


def measure(features: Path) -> dict[str, Any]:
    """Mean accuracies of both ablations on every set."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        for title, file in SETS.items():
            dataset, _, model = file.partition(".")
            path = named_path(Path(home), f"{dataset}/{model}.openai")
            task = load_task(cafe.import_features(features / f"{file}.openai.npz", path))
            widths = {width: accuracy(task, bottleneck=width) for width in BOTTLENECKS}
            ratios = {str(ratio): accuracy(task, ratio=ratio) for ratio in RATIOS}
            found[title] = {"bottleneck": widths, "ratio": ratios}
            print(title, json.dumps(found[title]))
    return found


def accuracy(task: Task, **settings: Any) -> float:
    """Mean test accuracy of one configuration at 16 shots."""
    (result,) = run_study(task, StudyPlan(["clip-adapter"], [16], SEEDS, settings=settings))
    return result.accuracy.mean


def draw_shots(cells: dict[str, Any], path: Path) -> None:
    """Accuracy over shots, one panel per set."""
    figure, panels = plt.subplots(1, len(SETS), figsize=(10.5, 3.6), layout="constrained")
    for panel, (title, file) in zip(panels, SETS.items(), strict=True):
        lowest = 100.0
        for method, (label, colour, line) in STYLE.items():
            points = [summarize(cells[f"{file} {shots}"][method]["accuracies"]) for shots in SHOTS]
            means = [point.mean for point in points]
            panel.plot(SHOTS, means, line, color=colour, label=label, marker="o", ms=3)
            low = [point.mean - (point.ci95 or 0) for point in points]
            high = [point.mean + (point.ci95 or 0) for point in points]
            panel.fill_between(SHOTS, low, high, color=colour, alpha=0.12, lw=0)
            lowest = min(lowest, *means)
        panel.set(title=title, xlabel="shots per class", xscale="log", ylim=(lowest - 4, 100.5))
        panel.set_xticks(SHOTS, [str(shots) for shots in SHOTS])
        panel.minorticks_off()
    panels[0].set_ylabel("test accuracy %")
    panels[0].legend(frameon=False, fontsize=8)
    finish(figure, path)


def draw_ablation(found: dict[str, Any], part: str, label: str, path: Path) -> None:
    """Accuracy over one hyper-parameter at 16 shots."""
    figure, panel = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    colours = ("#d55e00", "#0072b2", "#009e73")
    for colour, (title, data) in zip(colours, found.items(), strict=True):
        values = list(data[part].values())
        panel.plot(list(data[part]), values, color=colour, marker="o", ms=3, label=title)
    panel.set(xlabel=label, ylabel="test accuracy %, 16 shots")
    panel.legend(frameon=False, fontsize=8)
    finish(figure, path)


def finish(figure: Any, path: Path) -> None:
    """Take away what is not needed, and save."""
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.2)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, default=FEATURES)
    features = parser.parse_args().features
    if not features.is_dir():
        sys.exit(f"no feature files in {features}; say where with --features DIR.")
    plt.rcParams["svg.hashsalt"] = "cafe"
    images, results = ROOT / "docs/img", ROOT / "benchmarks/results"
    images.mkdir(parents=True, exist_ok=True)
    draw_shots(json.loads((results / "auto.json").read_text())["cells"], images / "shots.svg")
    found = measure(features)
    (results / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_ablation(found, "bottleneck", "bottleneck width", images / "ablation-bottleneck.svg")
    draw_ablation(found, "ratio", "ratio", images / "ablation-ratio.svg")


if __name__ == "__main__":
    main()
