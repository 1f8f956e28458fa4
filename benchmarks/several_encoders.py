"""Heads over several encoders of the same images, and of caches without text, on real features.

    python benchmarks/several_encoders.py encoders [--features DIR] [--seeds 3] [-o FILE]
    python benchmarks/several_encoders.py without-text [--features DIR] [--seeds 1] [-o FILE]

"encoders" is `auto` on WHU-RS19 over one encoder and over two; without its texts RN50 stands for
an encoder of images alone. It asserts 99.3, rounded, over two encoders at 16 shots. "without-text"
is every method that needs no text at 16 shots on real caches without. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auto import ROOT
from grid import machine

import cafe
from cafe.extract.importers import import_features

SHOTS = (1, 4, 16)
VIT, RN, REMOTE = "ViT-B-32.openai", "RN50.openai", "ViT-B-32.remoteclip"
BARE = "RN50.notext"
GROUPS = ((VIT,), (RN,), (BARE,), (REMOTE,), (VIT, RN), (VIT, BARE), (VIT, REMOTE))
DATASETS = ("oxford_flowers", "caltech101")
METHODS = ("nearest-class", "knn", "linear-probe", "lda", "map-probe", "auto")
AIM = 99.3
"""Over two encoders at 16 shots."""

Row = dict[str, float]


def encoders(features: Path, home: Path, seeds: int) -> Iterator[tuple[str, Row]]:
    """`auto` over each group of caches, at each shot count."""
    home /= "whu-rs19"
    sources = {name: features / f"whu-rs19.{name}.npz" for name in (VIT, RN, REMOTE)}
    arrays = dict(np.load(sources[RN]))
    del arrays["text_prompts"]
    sources[BARE] = home.with_name(f"whu-rs19.{BARE}.npz")
    np.savez(sources[BARE], **arrays)
    caches = {name: import_features(file, home / f"{name}.h5") for name, file in sources.items()}
    for group in GROUPS:
        chosen = [caches[name] for name in group]
        record = cafe.fit(chosen, method="auto", shots=SHOTS, seeds=seeds, runs=None)
        found = [result for result in record.results if result.method == "auto"]
        yield " + ".join(group), {f"{r.shots} shots": r.accuracy.mean for r in found}


def without_text(features: Path, home: Path, seeds: int) -> Iterator[tuple[str, Row]]:
    """Methods that need no text, at 16 shots."""
    for name in DATASETS:
        source = features / f"{name}.ViT-B-32.openai-notext.npz"
        cache = import_features(source, home / name / "ViT-B-32.notext.h5")
        record = cafe.fit(cache, method=METHODS, shots=16, seeds=seeds, runs=None)
        found = {result.method: result.accuracy.mean for result in record.results}
        yield name, {method: found[method] for method in METHODS}


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    columns = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[column]:.1f}' for column in columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write after every row, assert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("table", choices=["encoders", "without-text"])
    parser.add_argument("--features", type=Path, default=ROOT.parent / "shared/data/features")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    measure, usual = (encoders, 3) if given.table == "encoders" else (without_text, 1)
    seeds = given.seeds or usual
    about: dict[str, Any] = {"seeds": seeds, "machine": machine(torch.device("cpu"))}
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, row in measure(given.features, Path(folder), seeds):
            rows[name] = row
            print(name, row, flush=True)
            if given.output:
                text = json.dumps({**about, "rows": rows}, indent=1)
                given.output.with_suffix(".json").write_text(text + "\n")
                words = f"Accuracy in %, seeds 0 to {seeds - 1}; {about['machine']}"
                given.output.with_suffix(".md").write_text(f"{words}\n\n{table(rows)}\n")
    found = rows[f"{VIT} + {RN}"]["16 shots"] if measure is encoders else AIM
    if round(found, 1) < AIM:
        raise SystemExit(f"two encoders at 16 shots give {found:.2f}, not {AIM}")


if __name__ == "__main__":
    main()
