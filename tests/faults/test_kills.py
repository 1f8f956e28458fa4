"""Commands that are killed at their changes of files: nothing torn is left, and the next one works.

A sample of the changes is tried, or, with CAFE_LONG_FAULTS=1, every one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.checking import check_sweeps, check_whole, content, hidden
from faults.commands import EXTRACT, GRID, WRITERS
from faults.conftest import Work
from faults.harness import KILLED, LONG, Cafe

from cafe.store import FeatureCache

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def places(changes: int) -> list[int]:
    """Which changes of so many a command is killed at."""
    if LONG:
        return list(range(1, changes + 1))
    return [1 + changes // 2, changes]


@pytest.mark.parametrize("name", WRITERS)
def test_killed_at_a_change_of_a_file(name: str, cafe: Cafe, work: Work) -> None:
    words, again, replaces, _ = WRITERS[name]
    done = work()
    before = content(done)
    changes = cafe.count_changes(words, done)
    assert hidden(done) == []
    for place in places(changes):
        folder = work()
        assert cafe.run(words, folder, kill_at=place).code == KILLED
        check_whole(folder)
        after = content(folder)
        lost = [path for path in before if after.get(path) != before[path]]
        assert all(path.startswith(replaces) for path in lost)
        assert all(path in after for path in lost if not path.startswith("older/head-"))
        if LONG or place == changes // 2 + 1:
            check_sweeps(cafe, folder)
            answer = cafe.run([*words, *again], folder)
            assert answer.code == 0, answer.err
            check_whole(folder)
            assert len(list(folder.glob("older/*"))) == 3  # none of the older head is left
            assert hidden(folder) == []


def test_killed_while_it_removes(cafe: Cafe, work: Work) -> None:
    words = ["cache", "rm", "trees/toy.test", "--yes"]
    before = len(list(work().glob("cache/*/*.h5")))
    for place in places(cafe.count_changes(words, work())):
        folder = work()
        assert cafe.run(words, folder, kill_at=place).code == KILLED
        check_whole(folder)
        check_sweeps(cafe, folder)
        assert len(list(folder.glob("cache/*/*.h5"))) in (before - 1, before)


def test_killed_while_it_removes_a_run(cafe: Cafe, work: Work) -> None:
    words, before = ["runs", "rm", "mine", "--yes"], content(work() / "runs/mine")
    for place in places(cafe.count_changes(words, work())):
        folder = work()
        assert cafe.run(words, folder, kill_at=place).code == KILLED
        assert content(folder / "runs/mine") in ({}, before)  # whole or gone
        check_whole(folder)
        assert cafe.run(WRITERS["fit"].words, folder).code == 0  # which sweeps the rest
        assert hidden(folder / "runs") == []


def test_killed_while_it_prunes(cafe: Cafe, work: Work) -> None:
    words = ["cache", "import", "trees.npz", "new/toy.test"]
    middle = cafe.count_changes(words, work()) // 2

    def left() -> Path:
        folder = work()
        assert cafe.run(words, folder, kill_at=middle).code == KILLED
        return folder

    for place in places(cafe.count_changes(["cache", "prune"], left())):
        folder = left()
        assert cafe.run(["cache", "prune"], folder, kill_at=place).code == KILLED
        check_whole(folder)
        check_sweeps(cafe, folder)


def test_a_grid_takes_what_it_finished(cafe: Cafe, work: Work) -> None:
    folder = work()
    assert cafe.run(GRID, folder, kill_at=cafe.count_changes(GRID, work()) - 5).code == KILLED
    again = cafe.run(GRID, folder)
    assert (again.code, again.err) == (0, "4 runs were finished earlier, in fp32.\n")
    assert "0 runs in " in again.out
    assert ", 4 from an earlier sitting" in again.out
    assert hidden(folder) == []


def test_an_extraction_is_killed_until_it_is_done(cafe: Cafe, work: Work) -> None:
    whole, folder = work(), work()
    changes, kills = cafe.count_changes(EXTRACT, whole), 0
    while cafe.run(EXTRACT, folder, kill_at=changes // 2 + 1).code == KILLED:
        kills += 1
        check_whole(folder)
        assert kills < 5
    assert kills
    caches = [FeatureCache.open(f / "cache/photos/nano.glyphs.h5") for f in (whole, folder)]
    assert caches[0].content_sha256 == caches[1].content_sha256
    assert hidden(folder) == []
