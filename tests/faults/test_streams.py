"""Standard streams that are closed, full, or have no reader: one line or silence; work is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.checking import check_whole, content, hidden
from faults.commands import WRITERS
from faults.conftest import Work
from faults.harness import LONG, Cafe

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

READERS = [
    ["--help"],
    ["--version"],
    ["fit", "--help"],
    ["methods"],
    ["methods", "clip-adapter"],
    ["datasets", "--json"],
    ["cache", "ls"],
    ["cache", "ls", "--json"],
    ["cache", "show", "trees/toy.test"],
    ["cache", "verify", "trees/toy.test"],
    ["cache", "prune"],
    ["cache", "rm", "trees/toy.test", "--yes"],
    ["runs", "ls"],
    ["runs", "show", "mine"],
    ["runs", "rm", "mine", "--yes"],
    ["predict", "runs/seen", "photos"],
    ["predict", "runs/seen", "photos", "--format", "csv"],
    ["predict", "runs/seen", "photos", "--format", "jsonl", "--explain"],
]
COMMANDS = [*READERS, *(writer.words for writer in WRITERS.values())]
SAMPLE = [READERS[0], ["cache", "ls"], READERS[-2], WRITERS["import"].words, WRITERS["fit"].words]
NAMED = {"ids": lambda words: " ".join(words)[:40]}


@pytest.mark.parametrize("words", COMMANDS if LONG else SAMPLE, **NAMED)  # type: ignore[arg-type]
def test_a_result_that_cannot_be_shown(words: list[str], cafe: Cafe, work: Work) -> None:
    for fault, code in (("closed", 1), ("/dev/full", 1), ("gone", 141)):
        folder = work()
        answer = cafe.run(words, folder, stdout=fault)
        assert answer.code == code, (fault, answer)
        said = [line for line in answer.err.splitlines() if line.startswith("cafe: ")]
        assert "Traceback" not in answer.err
        assert len(said) == (code == 1), (fault, answer)
        assert all("cannot write to standard output" in line for line in said)
        check_whole(folder)
        assert hidden(folder) == []


@pytest.mark.parametrize("words", COMMANDS if LONG else SAMPLE, **NAMED)  # type: ignore[arg-type]
def test_notes_that_cannot_be_shown(words: list[str], cafe: Cafe, work: Work) -> None:
    for fault in ("closed", "/dev/full", "gone"):
        folder = work()
        answer = cafe.run(words, folder, stderr=fault)
        assert (answer.code, answer.err) == (0, ""), (fault, answer)
        assert answer.out
        check_whole(folder)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cache", "show", "none/none.none"], 2),
        (["cache", "show", "none.h5"], 1),
        (["fit", "--no-such-option"], 2),
        (["cache", "import", "trees.npz", "trees/toy.test"], 2),
        (["predict", "nowhere", "photos"], 1),
    ],
)
def test_errors_that_cannot_be_shown(
    words: list[str], code: int, cafe: Cafe, made: object, work: Work
) -> None:
    folder = work()
    before = content(folder)
    for fault in ("closed", "/dev/full", "gone"):
        assert cafe.run(words, folder, stderr=fault).code == code
        assert cafe.run(words, folder, stderr=fault, stdout=fault).code == code
    assert content(folder) == before
