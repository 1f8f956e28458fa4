"""Heads over several encoders of the same images, and of caches without text, on real features.

`python benchmarks/several_encoders.py FEATURES` with the folder of the npz files; results are in
`docs/several-encoders.md`. WHU-RS19 has three encoders; without its texts RN50 stands for an
encoder of images alone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import cafe
from cafe.extract.importers import import_features

SEEDS, SHOTS = 3, (1, 4, 16)
VIT, RN, REMOTE = "ViT-B-32.openai", "RN50.openai", "ViT-B-32.remoteclip"
BARE = "RN50.notext"
GROUPS = ((VIT,), (RN,), (BARE,), (REMOTE,), (VIT, RN), (VIT, BARE), (VIT, REMOTE))
WITHOUT_TEXT = ("caltech101", "oxford_flowers")


def main(features: Path, home: Path) -> None:
    """Print both tables."""
    caches = {
        name: import_features(features / f"whu-rs19.{name}.npz", home / "whu-rs19" / f"{name}.h5")
        for name in (VIT, RN, REMOTE)
    }
    arrays = dict(np.load(features / f"whu-rs19.{RN}.npz"))
    del arrays["text_prompts"]
    np.savez(home / f"whu-rs19.{BARE}.npz", **arrays)
    bare = home / f"whu-rs19.{BARE}.npz"
    caches[BARE] = import_features(bare, home / "whu-rs19" / f"{BARE}.h5")
    print(f"| WHU-RS19, auto, {SEEDS} seeds | {' | '.join(f'{k} shots' for k in SHOTS)} |")
    print("| --- " * (1 + len(SHOTS)) + "|")
    for group in GROUPS:
        chosen = [caches[name] for name in group]
        record = cafe.fit(chosen, method="auto", shots=SHOTS, seeds=SEEDS, runs=None)
        row = [f"{r.accuracy.mean:.1f}" for r in record.results if r.method == "auto"]
        print(f"| {' + '.join(group)} | {' | '.join(row)} |", flush=True)
    methods = ("nearest-class", "knn", "linear-probe", "lda", "map-probe", "auto")
    print(f"\n| without text, 16 shots | {' | '.join(methods)} | linear-probe, C by cv |")
    print("| --- " * (2 + len(methods)) + "|")
    for name in WITHOUT_TEXT:
        source = features / f"{name}.ViT-B-32.openai-notext.npz"
        cache = import_features(source, home / name / "ViT-B-32.notext.h5")
        row = [
            next(r.accuracy.mean for r in record.results if r.method == method)
            for record in [cafe.fit(cache, method=methods, shots=16, seeds=1, runs=None)]
            for method in methods
        ]
        options = {"method": "linear-probe", "shots": 16, "seeds": 1, "runs": None}
        row.append(cafe.fit(cache, validation="cv", **options).results[-1].accuracy.mean)
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
