"""Heads over several encoders of the same images, and of caches without text, on real features.

    python benchmarks/several_encoders.py [--features DIR] [--seeds 3] [-o FILE]

The first table is `auto` on WHU-RS19 over one encoder and over two; without its texts RN50 stands
for an encoder of images alone. The second is every method that needs no text at 16 shots, which are
all training images, on real caches without; "cv" chooses the settings of the linear probe by folds
inside the shots. Prints every figure with its seeds, and writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from cells import make_parser
from grid import machine

import cafe
from cafe.extract.importers import import_features

SHOTS = (1, 4, 16)
VIT, RN, REMOTE = "ViT-B-32.openai", "RN50.openai", "ViT-B-32.remoteclip"
BARE = "RN50.notext"
GROUPS = ((VIT,), (RN,), (BARE,), (REMOTE,), (VIT, RN), (VIT, BARE), (VIT, REMOTE))
DATASETS = ("oxford_flowers", "caltech101")
METHODS = ("nearest-class", "knn", "linear-probe", "lda", "map-probe", "auto")
CHOSEN = "linear-probe, cv"

Row = dict[str, list[float]]
"""Accuracy of each seed by column."""


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
        yield " + ".join(group), {f"{r.shots} shots": [*r.accuracy.per_seed] for r in found}


def without_text(features: Path, home: Path, seeds: int) -> Iterator[tuple[str, Row]]:
    """Methods that need no text, at 16 shots."""
    for name in DATASETS:
        source = features / f"{name}.ViT-B-32.openai-notext.npz"
        cache = import_features(source, home / name / "ViT-B-32.notext.h5")
        how: dict[str, Any] = {"shots": 16, "seeds": seeds, "runs": None}
        record = cafe.fit(cache, method=METHODS, **how)
        found = {result.method: [*result.accuracy.per_seed] for result in record.results}
        chosen = cafe.fit(cache, method="linear-probe", validation="cv", **how).results[-1]
        row = {method: found[method] for method in METHODS}
        yield name, {**row, CHOSEN: [*chosen.accuracy.per_seed]}


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    columns = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{mean(row[c]):.2f}' for c in columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write after every row."""
    given = make_parser(__doc__, seeds=3).parse_args()
    about: dict[str, Any] = {"seeds": given.seeds, "machine": machine(torch.device("cpu"))}
    tables: dict[str, dict[str, Row]] = {"encoders": {}, "without text": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind, measure in (("encoders", encoders), ("without text", without_text)):
            for name, row in measure(given.features, Path(folder), given.seeds):
                tables[kind][name] = row
                print(name, row, flush=True)
                if given.output:
                    text = json.dumps({**about, **tables}, indent=1)
                    given.output.with_suffix(".json").write_text(text + "\n")
    words = f"Accuracy in %, means of seeds 0 to {given.seeds - 1}; {about['machine']}"
    page = "\n\n".join([words, *map(table, tables.values())])
    print(page)
    if given.output:
        given.output.with_suffix(".md").write_text(f"{page}\n")


if __name__ == "__main__":
    main()
