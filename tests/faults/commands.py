"""The commands that write, in the working folder of the tests, and what each of them leaves."""

from __future__ import annotations

from typing import NamedTuple

FIT = ["--shots", "2", "--seeds", "1", "--epochs", "1"]
GRID = ["grid", "trees/toy.test", "--ratio", "0.2,0.6", "--bottleneck", "2,4", *FIT]
GRID += ["--validation", "few-shot", "--precision", "fp32"]
NANO = ["--model", "nano", "--device", "cpu"]
EXTRACT = ["extract", "--dataset", "photos", *NANO]
EXTRACT += ["--precision", "fp32", "--batch-size", "1"]  # two blocks
MERGED = ["north/toy.test", "south/toy.test"]


class Writer(NamedTuple):
    """A command that writes, and how it is run again after it was killed."""

    words: list[str]
    again: tuple[str, ...] = ()


WRITERS = {
    "extract": Writer(EXTRACT),
    "import": Writer(["cache", "import", "trees.npz", "new/toy.test"], ("--replace",)),
    "import --replace": Writer(
        ["cache", "import", "trees.npz", "trees/toy.test", "--logit-scale", "5", "--replace"]
    ),
    "merge": Writer(["cache", "merge", "all/toy.test", *MERGED], ("--replace",)),
    "merge --replace": Writer(["cache", "merge", "trees/toy.test", *MERGED, "--replace"]),
    "cache export npz": Writer(["cache", "export", "trees/toy.test", "out.npz"], ("--replace",)),
    "cache export safetensors": Writer(
        ["cache", "export", "trees/toy.test", "out.safetensors", "--replace"]
    ),
    "fit": Writer(["fit", "trees/toy.test", *FIT]),
    "compare": Writer(
        ["compare", *MERGED, "--methods", "zero-shot,gda", "--shots", "2", "--seeds", "1"]
    ),
    "grid": Writer(GRID),
    "meta-train": Writer(
        ["meta-train", "trees/toy.test", "-o", "m.safetensors", "--shots", "2", "--epochs", "1"]
    ),
    "export safetensors": Writer(["export", "runs/mine", "-o", "head.safetensors"]),
    "export torch": Writer(["export", "runs/mine", "--format", "torch", "-o", "head.pt2"]),
    "train": Writer(["train", "seen", *NANO, "--method", "gda", "-o", "model"]),
    "report": Writer(["report", "runs/mine", "-o", "page.html"]),
}
"""Each of them but `rm` and `prune`, which write nothing."""
