"""A new user's way from a folder to a model, in a fresh environment outside of the repository."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from letters import draw_letters

import cafe

ROOT = Path(__file__).parents[1]
Cafe = Callable[..., subprocess.CompletedProcess[str]]

NEEDED = {"pip": 22, "setuptools": 77}
"""Major versions of what builds and installs a wheel without a network."""


def is_there(name: str, least: int) -> bool:
    """Whether a package is installed; importing these two disturbs others."""
    try:
        return int(metadata.version(name).split(".")[0]) >= least
    except metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not all(is_there(name, least) for name, least in NEEDED.items()),
    reason="building a wheel without a network needs pip >= 22.3 and setuptools >= 77",
)


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without settings of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAFE", "PYTHON"))}
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture
def installed(tmp_path: Path) -> Cafe:
    """`cafe` of a wheel in an environment of its own, which borrows the packages of this one."""
    source, home = tmp_path / "source", tmp_path / "home"
    home.mkdir()
    skipped = shutil.ignore_patterns(".*", "tests", "docs", "benchmarks", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=skipped)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("-q", "--no-index", "--no-deps")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", home, source, folder=home)
    shutil.rmtree(source)
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", folder=home)
    scheme = {"base": str(home / "venv"), "platbase": str(home / "venv")}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    # after the environment's own packages, and without what an editable install adds
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = Path(sysconfig.get_path("scripts", "venv", scheme)) / "python"
    (wheel,) = home.glob("cafe_clip-*.whl")
    run(*pip, "--python", python, "install", *offline, wheel, folder=home)
    where = run(python, "-c", "import cafe; print(cafe.__file__)", folder=home).stdout
    assert Path(where).is_relative_to(packages)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return run(python.with_name("cafe"), *words, folder=tmp_path)

    return call


def splits(path: Path) -> dict[str, str]:
    """The split of each image of a cache."""
    features = cafe.FeatureCache.open(path)
    return {image: split for split in features.counts for image in features.ids(split)}


def labels(printed: str) -> list[str]:
    """What `predict --format csv` says."""
    return [row["label"] for row in csv.DictReader(printed.splitlines())]


def test_the_journey_of_a_new_user(tmp_path: Path, installed: Cafe) -> None:
    """From a folder to a model, and to a new one when images and a class were added."""
    photos, cache = tmp_path / "photos", tmp_path / "cache/photos/nano.glyphs.h5"
    draw_letters(photos, "OTWX", 150)
    (photos / "O/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    draw_letters(tmp_path / "new", "OX", 3, start=500)

    train = ("train", "./photos", "--model", "nano")
    told = installed(*train, "--verbose")
    assert "photos/nano.glyphs: 600 images encoded." in told.stderr.splitlines()
    assert "on all 600 images of 4 classes" in told.stdout
    assert "1 image could not be read." in told.stdout
    found = installed("predict", "model", "new", "--format", "csv").stdout
    assert labels(found) == ["O", "O", "O", "X", "X", "X"]

    before = splits(cache)
    draw_letters(photos, "J", 20)
    draw_letters(tmp_path / "new", "J", 1, start=500)
    told = installed(*train)
    (line,) = [line for line in told.stderr.splitlines() if "encoded" in line]
    told_of = "20 images encoded; 20 added; 601 as they were."  # with the torn one
    assert line == f"photos/nano.glyphs: {told_of}"
    assert "on all 620 images of 5 classes" in told.stdout
    assert "since the model before: images: 600 -> 620" in told.stdout
    assert "since the model before: new classes: J" in told.stdout
    assert "since the model before: estimated accuracy: " in told.stdout
    after = splits(cache)
    assert len(before) == 600
    assert len(after) == 620
    assert before.items() <= after.items()
    found = installed("predict", "model", "new/J", "--json").stdout
    assert [row["label"] for row in json.loads(found)] == ["J"]
