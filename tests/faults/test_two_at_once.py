"""Commands that write the same thing at the same time: one wins, the other says so in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.checking import check_whole, content, hidden, is_one_line
from faults.commands import EXTRACT, GRID, WRITERS
from faults.conftest import Work
from faults.harness import LONG, Answer, Cafe

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ROUNDS = 30 if LONG else 2
LOSES = ("another process is writing", "another process trains this grid", "is there already")
OTHER_SCALE = ["--logit-scale", "7", "--replace"]


def words(name: str, *more: str) -> list[str]:
    return [*WRITERS[name].words, *more]


def import_to(name: str, *more: str) -> list[str]:
    return ["cache", "import", "trees.npz", name, *more]


PAIRS = {
    "imports": [words("import"), words("import")],
    "imports that replace": [
        words("import --replace"),
        import_to("trees/toy.test", *OTHER_SCALE),
    ],
    "four imports": [import_to("new/toy.test", "--replace")] * 4,
    "merges": [words("merge"), words("merge")],
    "merges that replace": [words("merge --replace"), words("merge --replace")],
    "merge and import": [words("merge --replace"), words("import --replace")],
    "extractions": [EXTRACT, EXTRACT],
    "extraction and import": [EXTRACT, import_to("photos/nano.glyphs", "--replace")],
    "removal and import": [
        ["cache", "rm", "trees/toy.test", "--yes"],
        words("import --replace"),
    ],
    "prune and import": [["cache", "prune"], words("import --replace")],
    "prune and extraction": [["cache", "prune", "--interrupted"], EXTRACT],
    "exports of a cache": [words("cache export safetensors"), words("cache export safetensors")],
    "meta-trainings": [words("meta-train"), words("meta-train")],
    "exports of a head": [words("export safetensors"), words("export safetensors")],
    "trainings": [words("train"), words("train")],
    "grids": [GRID, GRID],
}


def run_at_once(
    cafe: Cafe, commands: list[list[str]], work: Path, **faults: object
) -> list[Answer]:
    processes = [cafe.start(words, work, **faults) for words in commands]
    return [cafe.end(process) for process in processes]


@pytest.mark.parametrize("name", PAIRS)
def test_one_wins_and_the_other_says_so(name: str, cafe: Cafe, work: Work) -> None:
    for _ in range(ROUNDS):
        folder = work()
        before = content(folder)
        answers = run_at_once(cafe, PAIRS[name], folder)
        done = [answer for answer in answers if answer.code == 0]
        assert done
        for answer in answers:
            assert answer.code == 0 or is_one_line(answer, *LOSES, "was made differently"), answer
        check_whole(folder)
        assert hidden(folder) == []
        lost = [path for path in before if path not in content(folder)]
        assert lost in ([], ["cache/trees/toy.test.h5"] if "removal" in name else [])


UNLOCKED = ["imports that replace", "four imports", "merge and import", "extraction and import"]
UNLOCKED += ["extractions", "grids", "exports of a head"]


@pytest.mark.parametrize("name", UNLOCKED)
def test_without_locks_the_last_one_wins(name: str, cafe: Cafe, work: Work) -> None:
    for _ in range(ROUNDS):
        folder = work()
        before = content(folder)
        answers = run_at_once(cafe, PAIRS[name], folder, locks=False)
        said = (*LOSES, "was made differently", "finished work", "was replaced by another")
        for answer in answers:
            assert answer.code == 0 or is_one_line(answer, *said), answer
        assert any(answer.code == 0 for answer in answers)
        check_whole(folder)
        assert not list(folder.rglob(".cafe-*"))
        assert [path for path in before if path not in content(folder)] == []


def test_a_cache_is_that_of_the_one_who_won(cafe: Cafe, work: Work) -> None:
    """The later of two imports that both end well, and never a mixture."""
    for _ in range(ROUNDS):
        folder = work()
        scales = ["5", "7"]
        commands = [import_to("new/toy.test", "--logit-scale", scale) for scale in scales]
        answers = run_at_once(cafe, commands, folder)
        assert sorted(answer.code == 0 for answer in answers) == [False, True]
        won = scales[[answer.code for answer in answers].index(0)]
        shown = cafe.run(["cache", "show", "new/toy.test"], folder)
        assert f"logit_scale: {won}.0" in shown.out


def test_fits_do_not_meet(cafe: Cafe, work: Work) -> None:
    for _ in range(ROUNDS):
        folder = work()
        answers = run_at_once(cafe, [words("fit")] * 3, folder)
        assert [answer.code for answer in answers] == [0, 0, 0]
        check_whole(folder)
        assert len(list((folder / "runs").iterdir())) == 5


def test_a_reader_sees_a_whole_cache_while_it_is_replaced(cafe: Cafe, work: Work) -> None:
    folder = work()
    for _ in range(ROUNDS):
        replaces = words("import --replace")
        reads = [["cache", "verify", "trees/toy.test"]] * 3
        _, *answers = run_at_once(cafe, [replaces, *reads], folder)
        for answer in answers:
            was_replaced = is_one_line(answer, "it was replaced by another while in use")
            assert answer.code == 0 or was_replaced, answer
