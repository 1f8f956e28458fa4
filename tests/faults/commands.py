"""The commands that write, in the working folder of the tests, and what each of them leaves."""

from __future__ import annotations

from typing import NamedTuple

FIT = ["--shots", "2", "--seeds", "1", "--epochs", "1"]
GRID = ["grid", "trees/toy.test", "--ratio", "0.2,0.6", "--bottleneck", "2,4", *FIT]
GRID += ["--validation", "few-shot", "--precision", "fp32"]
NANO = ["--model", "nano", "--device", "cpu"]
EXTRACT = ["extract", "--dataset", "photos", *NANO]
EXTRACT += ["--precision", "fp32", "--batch-size", "1"]  # two blocks
TRAIN = ["train", "grown", *NANO, "--method", "gda", "-o", "older"]
TREES, GROWN = ("cache/trees/toy.test.h5",), ("cache/grown/nano.glyphs.h5",)
MERGED = ["north/toy.test", "south/toy.test"]


class Writer(NamedTuple):
    """A command that writes.

    Attributes
    ----------
    words : list of str
    again : tuple of str
        What is added to run it again after it was killed.
    replaces : tuple of str
        Beginnings of the files that a new one may take the place of.
    keeps : tuple of str
        Those of them that are finished work, and stay where the command fails later.
    """

    words: list[str]
    again: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()


WRITERS = {
    "extract": Writer(EXTRACT),
    "extract of a folder that changed": Writer([*EXTRACT[:2], "grown", *EXTRACT[3:]], (), GROWN),
    "import": Writer(["cache", "import", "trees.npz", "new/toy.test"], ("--replace",)),
    "import --replace": Writer(
        ["cache", "import", "trees.npz", "trees/toy.test", "--logit-scale", "5", "--replace"],
        replaces=TREES,
    ),
    "merge": Writer(["cache", "merge", "all/toy.test", *MERGED], ("--replace",)),
    "merge --replace": Writer(
        ["cache", "merge", "trees/toy.test", *MERGED, "--replace"], replaces=TREES
    ),
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
    "train of a folder that changed": Writer(TRAIN, (), ("older/", *GROWN), GROWN),
    "report": Writer(["report", "runs/mine", "-o", "page.html"]),
}
"""Each of them but `rm` and `prune`, which write nothing."""
