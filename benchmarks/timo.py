"""Measure `--prompts-weighting timo` on feature files that have several prompts a class.

    python benchmarks/timo.py [--features DIR] [--seeds 3] [-o FILE]

Every method on the same draws without and with it, at its defaults; means over seeds in percent,
and what the weighting gains. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from cells import draw_sets, make_parser, percent_right
from grid import machine, read_features

from cafe.methods.base import Context
from cafe.methods.catalog import make_method

FILES = ("whu-rs19.RN50.openai", "whu-rs19.ViT-B-32.openai", "whu-rs19.ViT-B-32.remoteclip")
METHODS = ("clip-adapter", "lda-prior", "tip-adapter")
SHOTS = (1, 2, 4, 8, 16)


def measure(folder: Path, seeds: range) -> list[dict[str, Any]]:
    """One row per file, method and shot count."""
    rows = []
    for name in FILES:
        text, splits = read_features(folder / f"{name}.npz", torch.device("cpu"))
        pool, test, prompts = splits["train"], splits["test"], text.features.shape[1]
        for method in METHODS:
            for shots in SHOTS:
                row: dict[str, Any] = {"features": name, "prompts": prompts}
                row |= {"method": method, "shots": shots}
                for label, settings in (("plain", {}), ("timo", {"prompts_weighting": "timo"})):
                    fitter = make_method(method, Context(), settings)
                    sets = draw_sets(pool, text, shots, seeds)
                    heads = [fitter.fit(t, seed=s) for t, s in zip(sets, seeds, strict=True)]
                    row[label] = [percent_right(head.logits(test.x), test.y) for head in heads]
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: plain accuracy and gain, a row per file and method."""
    lines = [f"| features (prompts) | method | {' | '.join(map(str, SHOTS))} |"]
    lines.append("| --- " * (2 + len(SHOTS)) + "|")
    for name in FILES:
        for method in METHODS:
            own = [r for r in rows if (r["features"], r["method"]) == (name, method)]
            cells = (
                f"{mean(r['plain']):.2f} {mean(r['timo']) - mean(r['plain']):+.2f}" for r in own
            )
            lines.append(f"| {name} ({own[0]['prompts']}) | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    given = make_parser(__doc__, seeds=3).parse_args()
    if not given.features.is_dir():
        sys.exit(f"no feature files in {given.features}; say where with --features DIR.")
    rows = measure(given.features, range(given.seeds))
    print(table(rows))
    if given.output:
        about = machine(torch.device("cpu"))
        record = {"seeds": given.seeds, "machine": about, "rows": rows}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(
            f"Accuracy without the weighting and what it gains, by shots per class; {given.seeds} "
            f"seeds; {about}\n\n{table(rows)}\n"
        )


if __name__ == "__main__":
    main()
