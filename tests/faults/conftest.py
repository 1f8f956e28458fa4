"""A working folder with caches, runs and images, copied for each test, and `cafe` to run in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.commands import EXTRACT, FIT, TRAIN
from faults.harness import Cafe, serve
from making import draw_image

Work = Callable[[], Path]


def make_features(path: Path, seed: int, scale: float = 50.0) -> None:
    """An npz file of four classes that a classifier can learn."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "text_prompts": centres[:, None],
        "class_names": np.array(["ash", "birch", "cedar", "oak"]),
        "logit_scale": np.float32(scale),
    }
    for split, count in (("train", 6), ("val", 3), ("test", 10)):
        labels = np.arange(4).repeat(count)
        noise = generator.normal(size=(len(labels), 16)).astype(np.float32)
        arrays[f"{split}_features"] = centres[labels] + noise
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)


@pytest.fixture(scope="session")
def cafe() -> Iterator[Cafe]:
    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, cafe: Cafe) -> Path:
    """The working folder that the others are copied from."""
    folder = tmp_path_factory.mktemp("work")
    for seed, name in enumerate(("trees", "north", "south")):
        make_features(folder / f"{name}.npz", seed)
        answer = cafe.run(["cache", "import", f"{name}.npz", f"{name}/toy.test"], folder)
        assert answer.code == 0, answer.err
    for number in range(36):
        source = ("photos", "seen", "grown")[number % 3]
        path = folder / source / "ab"[number // 3 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(number).save(path)
    for source in ("seen", "grown"):
        assert cafe.run([*EXTRACT[:2], source, *EXTRACT[3:]], folder).code == 0
    assert cafe.run(TRAIN, folder).code == 0
    (folder / "grown/a/2.png").unlink()  # since then the folder has changed
    for number in (36, 37, 38):
        draw_image(number).save(folder / "grown/b" / f"{number}.png")
    for cache, name in (("trees/toy.test", "mine"), ("seen/nano.glyphs", "seen")):
        answer = cafe.run(["fit", cache, *FIT, "--json"], folder)
        assert answer.code == 0, answer.err
        next((folder / "runs").glob("2*")).rename(folder / "runs" / name)
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Work:
    """Makes a copy of the working folder."""
    numbers = iter(range(10**6))

    def copy() -> Path:
        return Path(shutil.copytree(made, tmp_path / str(next(numbers)), symlinks=True))

    return copy
