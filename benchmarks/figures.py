"""The pictures of the documentation, from real features; needs matplotlib.

    python benchmarks/figures.py [--features DIR]

Writes docs/img/*.svg and the numbers behind them to benchmarks/results/figures.json:
accuracy over shots (3 seeds, no validation labels), and the paper's two ablations (16 shots, 3
seeds, chosen on nothing: each point is the mean test accuracy of one fixed configuration).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import cafe
from cafe.home import named_path

ROOT = Path(__file__).parents[1]
FEATURES = ROOT.parent / "shared/data/features"
SETS = {
    "WHU-RS19, ViT-B/32": "whu-rs19.ViT-B-32.openai",
    "WHU-RS19, RN50": "whu-rs19.RN50.openai",
    "Caltech101, 66 classes, ViT-B/32": "caltech101-66.ViT-B-32.openai",
}
SHOTS = (1, 2, 4, 8, 16)
SEEDS = 3
BOTTLENECKS = ("D", "D/2", "D/4", "D/8", "D/16", "D/32")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STYLE = {
    "zero-shot": ("#7f7f7f", ":"),
    "nearest-class": ("#0072b2", "--"),
    "clip-adapter": ("#d55e00", "-"),
    "auto": ("#009e73", "-"),
}
LABELS = {"zero-shot": "zero-shot", "nearest-class": "nearest class mean"}
LABELS |= {"clip-adapter": "CLIP-Adapter, ratio 0.2", "auto": "cafe's auto"}


def accuracies(cache: Any, methods: Sequence[str], shots: Any, **settings: Any) -> dict[str, Any]:
    """Mean and interval of each method and shot count."""
    record = cafe.fit(cache, method=methods, shots=shots, seeds=SEEDS, runs=None, **settings)
    return {
        f"{row['method']}@{row['shots']}": [row["accuracy"]["mean"], row["accuracy"]["ci95"]]
        for row in record.json["results"]
    }


def measure(features: Path) -> dict[str, Any]:
    """Everything that the pictures show."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        for title, file in SETS.items():
            dataset, _, encoder = file.partition(".")
            path = named_path(Path(home), f"{dataset}/{encoder}")
            cache = cafe.import_npz(features / f"{file}.npz", path)
            shots = accuracies(cache, ["clip-adapter", "auto"], SHOTS)
            widths = {
                width: accuracies(cache, "clip-adapter", 16, bottleneck=width)
                for width in BOTTLENECKS
            }
            ratios = {
                str(ratio): accuracies(cache, "clip-adapter", 16, ratio=ratio) for ratio in RATIOS
            }
            found[title] = {"shots": shots, "bottleneck": widths, "ratio": ratios}
            print(title, json.dumps(found[title]["shots"]))
    return found


def draw_shots(found: dict[str, Any], path: Path) -> None:
    """Accuracy over shots, one panel per set."""
    figure, panels = plt.subplots(1, len(found), figsize=(10.5, 3.6), layout="constrained")
    for panel, (title, data) in zip(panels, found.items(), strict=True):
        for method, (colour, line) in STYLE.items():
            points = [data["shots"][f"{method}@{shots}"] for shots in SHOTS]
            means = [mean for mean, _ in points]
            panel.plot(SHOTS, means, line, color=colour, label=LABELS[method], marker="o", ms=3)
            low = [mean - (half or 0) for mean, half in points]
            high = [mean + (half or 0) for mean, half in points]
            panel.fill_between(SHOTS, low, high, color=colour, alpha=0.12, lw=0)
        panel.set(title=title, xlabel="shots per class", xscale="log")
        panel.set_xticks(SHOTS, [str(shots) for shots in SHOTS])
        panel.minorticks_off()
        lowest = min(p[0] for p in data["shots"].values())
        panel.set_ylim(lowest - 4, 100)
    panels[0].set_ylabel("test accuracy %")
    panels[0].legend(frameon=False, fontsize=8)
    finish(figure, path)


def draw_ablation(found: dict[str, Any], part: str, label: str, path: Path) -> None:
    """Accuracy over one hyper-parameter at 16 shots."""
    figure, panel = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    colours = ("#d55e00", "#0072b2", "#009e73")
    for colour, (title, data) in zip(colours, found.items(), strict=True):
        means = [values["clip-adapter@16"][0] for values in data[part].values()]
        panel.plot(list(data[part]), means, color=colour, marker="o", ms=3, label=title)
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
    found = measure(features)
    (ROOT / "benchmarks/results/figures.json").write_text(json.dumps(found, indent=1) + "\n")
    images = ROOT / "docs/img"
    images.mkdir(parents=True, exist_ok=True)
    draw_shots(found, images / "shots.svg")
    draw_ablation(found, "bottleneck", "bottleneck width", images / "ablation-bottleneck.svg")
    draw_ablation(found, "ratio", "ratio", images / "ablation-ratio.svg")


if __name__ == "__main__":
    main()
