"""`cafe runs`: what there is, what a run says, and that nothing but runs is ever removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from digits_run import Answer, call, digits_run

from cafe.errors import CafeError, InputError
from cafe.results import run_folders
from cafe.results.record import read_record
from cafe.results.run_folders import list_runs, remove_run

Run = Callable[..., Answer]


@pytest.fixture
def runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of one run, `mine`, in the working directory."""
    shutil.copytree(digits_run(tmp_path_factory) / "runs/mine", tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def run(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: call(monkeypatch, capsys, "runs", *words)


def test_ls(run: Run, runs: Path) -> None:
    assert "mine" in run("ls").out
    (row,) = json.loads(run("ls", "--json").out)
    assert (row["run"], row["kind"], row["dataset"]) == ("mine", "fit", "digits")
    assert (row["shots"], row["seeds"], row["methods"][-1]) == ([1, 4], [0, 1], "clip-adapter")
    assert row["bytes"] == sum(path.stat().st_size for path in (runs / "mine").iterdir())
    (runs / "mine/record.json").write_text("{")
    answer = run("ls")
    assert (answer.code, answer.out) == (0, "")
    assert "'runs/mine/record.json' is damaged" in answer.err
    assert run("ls", "--runs", "nowhere").out.startswith("no runs in 'nowhere'; 'cafe fit'")


def test_show(run: Run, runs: Path) -> None:
    text = run("show").out
    for part in ("runs/mine", "zero-shot", "clip-adapter", "4 shots", "997 test images"):
        assert part in text
    record = json.loads((runs / "mine/record.json").read_text())
    for name in ("mine", "runs/mine"):
        assert json.loads(run("show", name, "--json").out) == record
    assert run("show", "mime") == (
        2,
        "",
        "cafe: unknown run 'mime'; did you mean mine? In 'runs'.\n",
    )
    assert run("show", "no/where").code == 1


def test_rm_asks(run: Run, runs: Path) -> None:
    answer = run("rm", "mine")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "cafe: 'runs/mine' is kept; --yes removes it without asking.\n"
    size = json.loads(run("ls", "--json").out)[0]["bytes"]
    shutil.copytree(runs / "mine", runs / "other")
    assert json.loads(run("rm", "mine", "runs/mine", "--yes", "--json").out) == [
        {"removed": "runs/mine", "bytes": size}
    ]
    assert [path.name for path in runs.iterdir()] == ["other"]
    assert run("rm", "other", "-y").out.startswith("removed runs/other, ")
    assert list(runs.iterdir()) == []


def a_stranger_in_it(runs: Path) -> Path:
    (runs / "mine/thesis.csv").touch()
    return runs / "mine"


def a_folder_in_it(runs: Path) -> Path:
    (runs / "mine/runs.csv").unlink()
    (runs / "mine/runs.csv").mkdir()
    return runs / "mine"


def an_exported_head(runs: Path) -> Path:
    (runs / "mine/digits.clip-adapter.safetensors").touch()
    return runs / "mine"


def another_record(runs: Path) -> Path:
    (runs / "records").mkdir()
    (runs / "records/record.json").write_text('{"of": "vinyl"}')
    return runs / "records"


def a_link(runs: Path) -> Path:
    (runs / "link").symlink_to("mine")
    return runs / "link"


def a_file(runs: Path) -> Path:
    (runs / "file").touch()
    return runs / "file"


def a_head(runs: Path) -> Path:
    return runs / "mine/clip-adapter.4shot.seed0.safetensors"


def the_folder_of_runs(runs: Path) -> Path:
    return runs


STRANGERS = (
    a_stranger_in_it,
    a_folder_in_it,
    an_exported_head,
    another_record,
    a_link,
    a_file,
    a_head,
    the_folder_of_runs,
)


@pytest.mark.parametrize("make", STRANGERS)
def test_nothing_else_is_removed(run: Run, runs: Path, make: Callable[[Path], Path]) -> None:
    path = make(runs)
    shutil.copytree(digits_run_copy(runs), runs / "good")
    before = sorted(runs.rglob("*"))
    answer = run("rm", "good", path, "--yes")  # the good one neither
    assert (answer.code in (1, 2), answer.out) == (True, "")
    assert len(answer.err.splitlines()) == 1
    assert sorted(runs.rglob("*")) == before
    with pytest.raises(CafeError):
        remove_run(path)
    assert sorted(runs.rglob("*")) == before


def digits_run_copy(runs: Path) -> Path:
    """A run that nobody has touched."""
    clean = runs.parent / "clean"
    shutil.copytree(runs / "mine", clean, ignore=lambda *_: ["thesis.csv", "runs.csv"])
    for path in clean.glob("digits.*"):
        path.unlink()
    return clean


def test_a_damaged_run_goes(run: Run, runs: Path) -> None:
    (runs / "mine/record.json").write_text("{")
    assert run("rm", "mine", "--yes").code == 0
    assert list_runs(runs) == []


def test_a_run_that_cannot_be_removed_stays(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cafe.results.run_folders.move", refuse)
    before = sorted(runs.rglob("*"))
    answer = run("rm", "mine", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "cannot remove 'runs/mine' (Permission denied)" in answer.err
    assert sorted(runs.rglob("*")) == before


def test_records_that_are_no_files(run: Run, runs: Path) -> None:
    for name, target in (("nothing", "no"), ("loop", "record.json"), ("endless", "/dev/zero")):
        (runs / name).mkdir()
        (runs / name / "record.json").symlink_to(target)
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe/record.json")
    assert [row["run"] for row in json.loads(run("ls", "--json").out)] == ["mine"]
    for name in ("nothing", "loop", "endless", "pipe"):
        for word in ("show", "rm"):
            answer = run(word, name)
            assert (answer.code in (1, 2), len(answer.err.splitlines())) == (True, 1)
    with pytest.raises(InputError, match="it is no file"):
        read_record(runs / "pipe")


def test_a_run_that_is_removed_meanwhile(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_folders.size_of_run

    def gone(folder: Path) -> int:
        shutil.rmtree(folder)
        return real(folder)

    monkeypatch.setattr(run_folders, "size_of_run", gone)
    assert run("ls", "--json") == (0, "[]\n", "")
    (runs / "next").mkdir()
    (runs / "next/record.json").touch()
    monkeypatch.setattr(os.path, "isfile", lambda path: not shutil.rmtree(path.parent))
    assert list_runs(runs) == [runs / "next"]
