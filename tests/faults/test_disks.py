"""Disks that are full and folders that cannot be written: one line, and nothing is torn or lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.checking import check_whole, content, hidden, is_one_line
from faults.commands import WRITERS
from faults.conftest import Work
from faults.harness import LONG, Cafe

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SAID = ("cannot write", "cannot keep finished", "cannot remove")


def check_failed(
    answer: object, before: dict[str, bytes], folder: Path, keeps: tuple[str, ...]
) -> None:
    """One line, and every file as it was; only whole runs and finished work may be added."""
    assert is_one_line(answer, *SAID), answer  # type: ignore[arg-type]
    after = content(folder)
    lost = [path for path in before if after.get(path) != before[path]]
    assert all(path.startswith(keeps) for path in lost)
    assert all(path.startswith("runs/") for path in after.keys() - before.keys())
    check_whole(folder)
    left = [name for name in hidden(folder) if ".partial" not in name and "/.grid-" not in name]
    assert left == []


def sizes_of_new(folder: Path, before: dict[str, bytes]) -> list[int]:
    return [len(data) for path, data in content(folder).items() if before.get(path) != data]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_grow(name: str, cafe: Cafe, work: Work) -> None:
    words, again, _, keeps = WRITERS[name]
    done = work()
    before = content(done)
    assert cafe.run(words, done).code == 0
    largest = max(sizes_of_new(done, before))
    most = 9 * largest // 10  # of two runs the sizes differ by some digits
    limits = {0, 1, 100, 1000, 4096, largest // 2, most} if LONG else {0, most}
    for limit in (limit for limit in sorted(limits) if limit <= most):
        folder = work()
        answer = cafe.run(words, folder, limit=limit)
        check_failed(answer, before, folder, keeps)
    assert cafe.run([*words, *again], folder).code == 0  # once there is room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, pages: int) -> None:
    """Leave so many pages free."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk)
    filler.write_bytes(bytes((free.f_bavail - pages) * free.f_bsize))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, cafe: Cafe, made: Path, disk: Path) -> None:
    words, _, _, keeps = WRITERS[name]
    folder = disk / "work"
    shutil.copytree(made, folder)
    before = content(folder)
    assert cafe.run(words, folder).code == 0
    size = 1 + sum(sizes_of_new(folder, before)) // 4096
    for pages in range(0, size, max(1, size // 40)) if LONG else (0, size // 2):
        shutil.rmtree(folder)
        shutil.copytree(made, folder)
        fill(disk, pages)
        check_failed(cafe.run(words, folder), before, folder, keeps)
        (disk / "filler").unlink()
    assert cafe.run(words, folder).code == 0
    check_whole(folder)


def freeze(folder: Path, mode: int = 0o555) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(mode)


@pytest.mark.parametrize("name", WRITERS)
def test_folders_that_cannot_be_written(name: str, cafe: Cafe, work: Work) -> None:
    words, _, _, keeps = WRITERS[name]
    folder = work()
    before = content(folder)
    freeze(folder)
    answer = cafe.run(words, folder, rights=False)
    freeze(folder, 0o755)
    check_failed(answer, before, folder, keeps)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cache", "rm", "trees/toy.test", "--yes"], 1),
        (["runs", "rm", "mine", "--yes"], 1),
        (["runs", "show", "mine"], 0),
        (["cache", "prune"], 0),
        (["cache", "ls"], 0),
        (["cache", "show", "trees/toy.test"], 0),
        (["cache", "verify", "trees/toy.test"], 0),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_reading_what_cannot_be_written(
    words: list[str], code: int, cafe: Cafe, work: Work
) -> None:
    folder = work()
    before = content(folder)
    freeze(folder)
    answer = cafe.run(words, folder, rights=False)
    freeze(folder, 0o755)
    assert answer.code == code, answer
    assert code == 0 or answer.err.count("\n") == 1, answer
    assert content(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ["report", "runs/mine", "-o", "photos/a/0.png"],
        ["report", "runs/mine", "-o", "runs/mine/record.json"],
        ["report", "runs/mine", "-o", "trees.html"],
        ["export", "runs/mine", "-o", "cache/trees/toy.test.h5"],
        ["export", "runs/mine", "-o", "runs/seen/clip-adapter.2shot.seed0.safetensors"],
        ["export", "runs/mine", "--format", "torch", "-o", "trees.npz"],
        ["meta-train", "trees/toy.test", "-o", "trees.npz", "--shots", "2"],
        ["meta-train", "trees/toy.test", "-o", "runs/mine/clip-adapter.2shot.seed0.safetensors"],
    ],
    ids=" ".join,
)
def test_a_file_that_is_no_earlier_output_is_kept(words: list[str], cafe: Cafe, work: Work) -> None:
    folder = work()
    (folder / "trees.html").symlink_to("trees.npz")
    before = content(folder)
    answer = cafe.run(words, folder)
    assert answer.code == 1
    assert is_one_line(answer, "choose another with --output")
    assert content(folder) == before
