"""A model with some wrong labels, and its server in a process, for tests of `cafe serve`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cafe
from cafe.datasets import load_dataset
from cafe.datasets.dataset import Dataset

WRONG = 24
HOSTILE = ("<script>alert(1)</script>", "new\nline", "\u202egnp.evil", "x" * 900, "a, \"b\"; 'c'")


def some_digits(wrong: int = WRONG, names: dict[int, str] | None = None) -> Dataset:
    """300 of the digits, of which some have the label of the next class."""
    digits = load_dataset("digits")
    items = digits.splits["train"][::2]
    wrongly = set(range(0, len(items), len(items) // wrong)[:wrong]) if wrong else set()
    flipped = tuple(
        item._replace(label=(item.label + 1) % 10) if row in wrongly else item
        for row, item in enumerate(items)
    )
    classes = tuple((names or {}).get(c, name) for c, name in enumerate(digits.class_names))
    return replace(digits, splits={"train": flipped}, class_names=classes)


def make_model(work: Path, dataset: Dataset, method: str = "gda", **settings: int) -> Path:
    """A model with its cache; quick to train again."""
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    cache = extractor.extract(dataset, cache=work / "cache")
    folder = work / "model"
    cafe.train(cache, method=method, output=folder, device="cpu", **settings)
    return folder


@contextmanager
def running(work: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`cafe serve model` in a process: its address, and the process."""
    words = [sys.executable, "-m", "cafe_cli.main", "serve", "model", "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words,
        cwd=work,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read())
            yield address, process
        finally:
            process.kill()


def wait_for(what: object, seconds: float = 60.0) -> object:
    """The first true value of a callable."""
    assert callable(what)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")
