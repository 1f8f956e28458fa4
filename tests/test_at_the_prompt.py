"""What a user types, and what a command makes of it: options, recorded commands, the protocol."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from digits_run import Answer, call, digits_run
from making import draw_image

import cafe
from cafe.errors import counted
from cafe.extract.importers import zero_shot_check
from cafe.results.record import read_record
from cafe.results.run_folders import list_runs
from cafe_cli.main import app

Run = Callable[..., Answer]
QUICK = ("--shots", "2", "--seeds", "2", "--device", "cpu")


@pytest.fixture
def run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `cafe` in a folder with a copy of the cache of the digits."""
    shutil.copytree(digits_run(tmp_path_factory) / "cache", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return lambda *words: call(monkeypatch, capsys, *words)


COMMANDS = [
    ["fit", "--method", "nearest-class", "--methods=gda,knn", *QUICK],
    ["fit", "--model", "nano", "--dataset", "digits", "--epochs", "2", "--ratio", "0.1", *QUICK],
    ["fit", "digits/nano.glyphs", "--epochs", "2", "--validation", "cv", *QUICK],
    ["compare", "--method", "knn", "--method", "gda", *QUICK],
    ["compare", "--methods", "knn,gda", "cache/digits/nano.glyphs.h5", *QUICK],
    ["grid", "--ratio", "0.2,0.6", "--bottleneck", "D/8", "--epochs", "2", *QUICK],
]


@pytest.mark.parametrize("words", COMMANDS, ids=str)
def test_the_recorded_command_makes_the_run_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("CAFE_CACHE", "cache")
    found = run(*words)
    assert found.code == 0, found.err
    first = read_record(list_runs(Path("runs"))[0])
    assert "cache/digits/nano.glyphs.h5@" in first.command
    monkeypatch.setenv("CAFE_CACHE", "elsewhere")
    shutil.copytree("cache/digits", "cache/later")  # now the newest
    assert run(*shlex.split(first.command)[1:]).code == 0
    second = read_record(list_runs(Path("runs"))[0])
    assert second.folder != first.folder
    assert second.command == first.command
    assert [(r.method, r.accuracy) for r in second.results] == [
        (r.method, r.accuracy) for r in first.results
    ]


def test_a_recorded_command_refuses_a_cache_that_was_made_anew(run: Run) -> None:
    name = "digits/nano.glyphs"
    answer = run("fit", f"{name}@0123456789abcdef", *QUICK)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
    assert "not 0123456789abcdef: it was made anew since; leave out '@01" in answer.err
    shutil.copyfile("cache/digits/nano.glyphs.h5", "of.h5@0123456789")
    assert run("cache", "show", "of.h5@0123456789").code == 0


def test_methods_repeat_and_take_commas_everywhere(run: Run) -> None:
    for command in ("fit", "compare"):
        for words in (
            ["--method", "knn,gda"],
            ["--method", "knn", "--method", "gda"],
            ["--methods", "knn, gda"],
        ):
            answer = run(command, *words, *QUICK, "--json")
            assert answer.code == 0, answer.err
            methods = [row["method"] for row in json.loads(answer.out)["results"]]
            assert methods[-2:] == ["knn", "gda"]
        assert run(command, "--method", ",").err.startswith("cafe: --method names no method;")


def test_a_dataset_is_named_once(run: Run) -> None:
    for words in (["digits"], ["--dataset", "digits"]):
        assert "is there already" in run("extract", *words).out
    for words in ([], ["digits", "--dataset", "digits"]):
        answer = run("extract", *words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("cafe: name one dataset, as in 'cafe extract ./photos'")


def test_the_protocol_is_one_line_or_all_of_it(run: Run) -> None:
    for command in COMMANDS[0], COMMANDS[-3], COMMANDS[-1]:
        brief, full = run(*command), run(*command, "--verbose")
        (line,) = (line for line in brief.out.splitlines() if "997 test images" in line)
        assert line.startswith("2 shots per class, 2 seeds, validation ")
        assert "(nested draws)" not in brief.out
        words = read_record(list_runs(Path("runs"))[1]).protocol.words
        assert "(nested draws)" in words  # the record has it all
        assert words in full.out
        assert brief.out.count("Data: scikit-learn's digits") == 1


@pytest.mark.parametrize(("seeds", "text"), [("1", "(1 seed)"), ("3", "(95 %, 3 seeds)")])
def test_one_seed_has_no_interval(run: Run, seeds: str, text: str) -> None:
    answer = run("fit", "--shots", "1", "--seeds", seeds, "--method", "nearest-class", "--verbose")
    assert text in answer.out
    assert ("Intervals are 95 %" in answer.out) == (seeds != "1")
    assert not re.search(r"(?<![\d.,])1 (shots|seeds|images|classes|methods|runs)\b", answer.out)
    assert "seeds 0, 1, 2 (nested" in answer.out if seeds == "3" else "seed 0 (nested" in answer.out


def test_an_interval_from_two_seeds_says_so(run: Run) -> None:
    text, words = "(95 %, 2 seeds)", ["--shots", "1", "--seeds", "2", "--device", "cpu"]
    for many in ("1", "1,2"):
        assert text in run("fit", *words, "--method", "knn", "--shots", many).out
    methods = ["--method", "clip-adapter,knn"]
    assert run("compare", *words, *methods).out.count(text) == 2  # of accuracies and differences
    assert text in run("compare", *words, "--method", "zero-shot", "--base-to-new").out
    grid = run("grid", *words, "--ratio", "0.2", "--bottleneck", "8", "--epochs", "1")
    assert f"then tested % {text}" in grid.out
    run("report", "runs")
    page = Path("report.html").read_text(encoding="utf-8")
    assert "95 % interval over 2 seeds" in page


def test_the_demo_recommends_no_nano_for_photographs(run: Run) -> None:
    answer = run("demo")
    assert "cafe train ./photos --model ViT-B-32" in answer.out
    assert "--model nano" not in answer.out


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1200, "test image", "1,200 test images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        ("all", "shot", "all shots"),
        ("1, 4", "shot", "1, 4 shots"),
    ],
)
def test_counted(number: int | str, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_one_thing_has_one_name_in_every_command() -> None:
    def options(command: Any) -> Iterator[tuple[str, str]]:
        for below in getattr(command, "commands", {}).values():
            yield from options(below)
        yield from (
            (option, parameter.opts[0])
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--")
        )

    first: dict[str, set[str]] = {}
    for option, name in options(typer.main.get_command(app)):
        first.setdefault(option, set()).add(name)
    # an older name stands second wherever it is
    assert first["--methods"] == {"--method"}
    assert first["--classes"] == {"--class-names"}
    assert all(len(names) == 1 for names in first.values())


def draw_folder(folder: Path, images: int) -> None:
    """Classes that nobody can tell apart, the encoder neither."""
    for number, name in enumerate(("ash", "birch", "cedar")):
        (folder / name).mkdir(parents=True)
        for index in range(images):
            draw_image(1000 * number + index).save(folder / name / f"{index}.png", compress_level=1)


def test_a_good_zero_shot_on_few_images_is_not_doubted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("cache", "ls").code == 0  # where the digits are
    cache = cafe.FeatureCache.open("digits/nano.glyphs")
    for right, doubted in ((80.0, False), (40.0, True)):
        few = zero_shot_check.ZeroShotCheck("test", 50, right, 32, 96, at_chance=True)
        monkeypatch.setattr(zero_shot_check, "check_zero_shot", lambda _, few=few: few)
        assert bool(zero_shot_check.doubts_of_extraction(cache)) is doubted


def test_zero_shot_at_chance_is_said_where_a_cache_is_made(run: Run, tmp_path: Path) -> None:
    draw_folder(tmp_path / "noise", 30)
    draw_folder(tmp_path / "few", 3)
    said = "where guessing gives 3"
    for words, expected in (
        (["noise", "--model", "nano", "--json"], True),
        (["noise", "--model", "nano"], False),  # it is there already
        (["noise", "--model", "nano", "--rebuild"], True),
        (["few", "--model", "nano"], False),  # too few to tell
        (["digits", "--cache", "other"], False),  # it is far above chance
    ):
        answer = run("extract", *words)
        assert answer.code == 0, answer.err
        assert [said in line for line in answer.err.splitlines() if "zero-shot" in line] == (
            [True] if expected else []
        )
        assert said not in answer.out
        if expected:
            assert "this encoder does not know these classes by these words" in answer.err
