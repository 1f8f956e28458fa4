"""The command line as a user meets it: results on stdout, errors in one line, help, examples."""

from __future__ import annotations

import inspect
import json
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import h5py
import numpy as np
import pytest
import torch
from making import make_block, make_header
from PIL import Image
from typer.main import get_command

import cafe
from cafe.store import write_cache
from cafe.store.packed_text import PackedText
from cafe_cli.commands.extract import extract
from cafe_cli.commands.fit import fit
from cafe_cli.commands.grid import grid
from cafe_cli.commands.meta_train import meta_train
from cafe_cli.json_pieces import json_pieces
from cafe_cli.main import app, main, name_options

COMMANDS = [
    ["demo"],
    ["serve"],
    ["train"],
    ["next"],
    ["extract"],
    ["fit"],
    ["compare"],
    ["report"],
    ["grid"],
    ["meta-train"],
    ["predict"],
    ["export"],
    ["check"],
    ["relabel"],
    ["datasets"],
    ["methods"],
    ["cache", "ls"],
    ["cache", "show"],
    ["cache", "import"],
    ["cache", "verify"],
    ["cache", "rm"],
    ["cache", "prune"],
    ["cache", "export"],
    ["cache", "merge"],
    ["runs", "ls"],
    ["runs", "show"],
    ["runs", "rm"],
]


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `cafe` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    monkeypatch.delenv("CAFE_DATA", raising=False)

    def call(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Features that a classifier can learn: 4 classes, width 16, class names as text."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 16)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "text_prompts": centres[:, None] + generator.normal(size=(4, 3, 16)).astype(np.float32),
        "class_names": np.array(["ash", "birch", "cedar", "Ölweide"]),
        "logit_scale": np.float32(50),
    }
    for split, count in (("train", 8), ("val", 4), ("test", 10)):
        labels = np.arange(4).repeat(count)
        noise = generator.normal(size=(len(labels), 16)).astype(np.float32)
        arrays[f"{split}_features"] = centres[labels] + noise
        arrays[f"{split}_labels"] = labels
    path = tmp_path / "trees.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


@pytest.fixture
def trees(run: Run, npz: Path, tmp_path: Path) -> Path:
    """The same features as a cache in ./cache."""
    assert run("cache", "import", npz, "trees/toy.test").code == 0
    return tmp_path / "cache/trees/toy.test.h5"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of images in folders."""
    for number, name in enumerate(("red", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(6):
            colour = (200, index, 0) if number == 0 else (0, index, 200)
            Image.new("RGB", (40, 30), colour).save(tmp_path / f"photos/{name}/{index}.png")
    return tmp_path / "photos"


def test_fit_compares_on_the_same_shots_and_seeds(run: Run, trees: Path) -> None:
    answer = run("fit", "--shots", "4", "--seeds", "2", "--epochs", "5", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert Path(found["cache"]) == Path("cache/trees/toy.test.h5")
    assert found["dataset"] == "trees"
    assert found["encoder"]["model"] == "toy"
    assert found["encoder"]["pretrained"] == "test"
    protocol = found["protocol"]
    assert (protocol["shots"], protocol["seeds"], protocol["validation"]) == (4, [0, 1], "none")
    methods = [result["method"] for result in found["results"]]
    assert methods == ["zero-shot", "nearest-class", "clip-adapter"]
    for result in found["results"]:
        accuracy = result["accuracy"]
        assert len(accuracy["per_seed"]) == 2
        assert 25 < accuracy["mean"] <= 100
        assert accuracy["std"] >= 0
        assert accuracy["ci95"] >= 0
        assert result["seconds"] >= 0
    assert found["results"][-1]["params"]["ratio"] == 0.2
    assert found["results"][-1]["params"]["bottleneck"] == 4
    assert found["results"][-1]["params"]["epochs"] == 5


def test_fit_saves_what_is_needed_to_load_it_again(run: Run, trees: Path, tmp_path: Path) -> None:
    from cafe.features.task import load_task
    from cafe.results.metrics import accuracy
    from cafe.results.saved_head import load_head
    from cafe.store import FeatureCache

    found = json.loads(run("fit", "--shots", "4", "--seeds", "2", "--json").out)
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "record.json").read_text()) == found
    assert len((folder / "runs.csv").read_text().splitlines()) == 1 + 3 * 2
    test = load_task(FeatureCache.open(trees)).splits["test"]
    for result in found["results"]:
        for seed, score in enumerate(result["accuracy"]["per_seed"]):
            saved = load_head(folder / f"{result['method']}.4shot.seed{seed}.safetensors")
            assert saved.about["class_names"] == ["ash", "birch", "cedar", "Ölweide"]
            assert accuracy(saved.head.logits(test.x), test.y) == pytest.approx(score)


def test_fit_prints_a_table_and_the_protocol(run: Run, trees: Path) -> None:
    answer = run("fit", "trees/toy.test", "--shots", "all", "--seeds", "2", "--epochs", "2")
    assert answer.code == 0, answer.err
    for word in ("zero-shot", "nearest-class", "clip-adapter", "±", "Saved to", "40 test images"):
        assert word in answer.out


def test_fit_takes_the_newest_and_says_so(run: Run, trees: Path, npz: Path) -> None:
    run("cache", "import", npz, "trees/other.test")
    answer = run("fit", "--shots", "1", "--seeds", "1", "--epochs", "1")
    assert "taking trees/other.test, the newest of 2 caches" in answer.err
    picked = run("fit", "--model", "toy", "--shots", "1", "--seeds", "1", "--epochs", "1", "--json")
    assert "toy.test" in json.loads(picked.out)["cache"]


def test_validation_chooses_among_ratios(run: Run, trees: Path) -> None:
    words = ["--shots", "2", "--seeds", "2", "--epochs", "2", "--ratio", "0.1,0.6", "--json"]
    found = json.loads(run("fit", "--validation", "few-shot", *words).out)
    chosen = found["results"][-1]["params"]["ratio"]
    assert set(chosen if isinstance(chosen, list) else [chosen]) <= {0.1, 0.6}


def test_cache_ls_and_show(run: Run, trees: Path) -> None:
    assert "trees/toy.test" in run("cache", "ls").out
    (row,) = json.loads(run("cache", "ls", "--json").out)
    assert row["images"] == {"train": 32, "val": 16, "test": 40}
    shown = run("cache", "show", "trees/toy.test")
    assert "Ölweide" in shown.out
    details = json.loads(run("cache", "show", "--json").out)
    assert details["width"] == 16
    assert details["logit_scale"] == 50


def test_show_unpacks_no_more_names_than_it_prints(run: Run, tmp_path: Path) -> None:
    names: PackedText[str] = PackedText(np.array([b"ab"]).repeat(500_000))
    header = make_header(missing=names, skipped=PackedText(np.full((200_000, 3), b"cd")))
    write_cache(tmp_path / "cache/many" / "model.tag.h5", header, {"test": [make_block(4)]})
    run("cache", "show")  # what is imported does not count
    tracemalloc.start()
    try:
        shown = run("cache", "show").out
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert "missing: 500000\n  ab\n" in shown
    assert "skipped: 200000\n  cd | cd | cd\n" in shown
    assert len(json.loads(run("cache", "show", "--json").out)["missing"]) == 500_000


def test_json_of_a_long_list_comes_in_pieces() -> None:
    values = {"a": [1], "many": map(str, range(50_000)), "none": iter(()), "b": {"c": None}}
    pieces = list(json_pieces(values, json.dumps))
    assert max(map(len, pieces)) < 50_000
    whole = {**values, "many": [*map(str, range(50_000))], "none": []}
    assert "".join(pieces) == json.dumps(whole)


def test_lists(run: Run) -> None:
    methods = {row["name"] for row in json.loads(run("methods", "--json").out)}
    assert {"zero-shot", "nearest-class", "clip-adapter"} <= methods
    datasets = {row["name"]: row for row in json.loads(run("datasets", "--json").out)}
    assert len(datasets) == 12
    assert datasets["digits"]["present"]
    assert not datasets["dtd"]["present"]
    assert "clip-adapter" in run("methods").out
    assert "eurosat" in run("datasets").out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_one_sentence_and_an_example(run: Run, words: list[str]) -> None:
    answer = run(*words, "--help")
    assert answer.code == 0
    assert f"Example: cafe {' '.join(words)}" in answer.out


@pytest.mark.parametrize("words", [[], ["cache"], ["runs"]], ids=len)
def test_the_sentences_of_commands_are_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = run(*words, "--help").out.partition("Commands:\n")[2].split("\n\n")[0]
    lines = commands.splitlines()
    assert lines
    assert all(re.fullmatch(r"  [a-z-]+ +[A-Z].*[^.]\.", line) for line in lines)


def test_every_command_is_tested_for_help() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    named = [[command.name] for command in app.registered_commands]
    for name, group in groups.items():
        assert group is not None
        named += [[name, command.name] for command in group.registered_commands]
    assert sorted(map(str, named)) == sorted(map(str, COMMANDS))


def limited_options() -> Iterator[tuple[list[str], str, tuple[str, ...]]]:
    """Words of a command, an option, and what an answer to a wrong value of it names."""
    whole = get_command(app)
    for words in COMMANDS:
        command: Any = whole
        for word in words:
            command = command.commands[word]
        needed = ["x"] * sum(p.required and not p.opts[0].startswith("-") for p in command.params)
        types = get_type_hints(inspect.unwrap(command.callback))
        for parameter in command.params:
            allowed = types.get(parameter.name)
            kinds = get_args(allowed) if get_origin(allowed) in (Union, UnionType) else (allowed,)
            for kind in kinds:
                if get_origin(kind) is Literal:
                    yield [*words, *needed], parameter.opts[0], get_args(kind)
                elif kind in (int, float) and str not in kinds:
                    named = {int: "integer", float: "number|float"}[kind]
                    yield [*words, *needed], parameter.opts[0], (named,)


def test_a_wrong_value_is_refused_in_one_line_with_what_is_allowed(run: Run) -> None:
    options = list(limited_options())
    assert len(options) > 40
    for words, option, allowed in options:
        answer = run(*words, option, "rya")
        assert answer.code == 2, (words, option)
        assert answer.err.startswith(f"cafe: {option}: 'rya' "), answer.err
        assert answer.err.count("\n") == 1
        assert all(re.search(value, answer.err) for value in allowed), answer.err
        assert "Value error" not in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve model --port 99999", "--port: '99999' should be less than or equal to 65535|99999"),
        ("fit --frobnicate", r"no such option:? '?--frobnicate'?; see 'cafe fit --help'"),
        ("fit --epochs", "option '--epochs' requires an argument; see 'cafe fit --help'"),
        ("cache ls --cache", "option '--cache' requires an argument; see 'cafe cache ls --help'"),
        ("fit --json=1", "option '--json' does not take a value; see 'cafe fit --help'"),
        ("--version=1", "option '--version' does not take a value; see 'cafe --help'"),
        ("fitt", "no such command 'fitt'"),
        ("cache show a b", "unexpected extra argument"),
        ("train", "missing argument 'DATASET'; see 'cafe train --help'"),
    ],
)
def test_words_that_are_unknown_are_named_in_one_line(run: Run, words: str, said: str) -> None:
    answer = run(*words.split())
    assert answer.code == 2
    assert answer.err.startswith("cafe: ")
    assert answer.err.count("\n") == 1
    assert re.search(said, answer.err)


@pytest.mark.parametrize(
    ("command", "call"),
    [
        (extract, cafe.Extractor),
        (extract, cafe.Extractor.extract),
        (fit, cafe.fit),
        (grid, cafe.grid),
        (meta_train, cafe.meta_train),
    ],
)
def test_defaults_are_those_of_the_library(
    command: Callable[..., None], call: Callable[..., object]
) -> None:
    ours, theirs = inspect.signature(command).parameters, inspect.signature(call).parameters
    shared = {name for name in ours.keys() & theirs.keys() if ours[name].default is not None}
    assert shared
    for name in shared - {"spatial"}:
        assert words_of(ours[name].default) == words_of(theirs[name].default), name


def words_of(default: object) -> str:
    """A default as a command line says it."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ('use validation="cv" or "full".', 'use --validation cv or "full".'),
        (
            "encode=True computes the text of classes=FILE.",
            "--encode computes the text of --classes FILE.",
        ),
        (
            "use rebuild=True, or another folder, cache=.",
            "use --rebuild, or another folder, --cache.",
        ),
        ("use max_runs=None to go on.", "use --yes to go on."),
        ("go on with on_error='skip'.", "go on with --on-error skip."),
        ("name it with model= and pretrained=.", "name it with --model and --pretrained."),
        ("it has batch_size, lr.", "it has batch_size, lr."),
        ("batch_size=0 is too small.", "--batch-size 0 is too small."),
        ('"a=b" is no class; x="y".', '"a=b" is no class; x="y".'),
        ("batch_size must be 1 or more; got 0.", "--batch-size must be 1 or more; got 0."),
        ("a pool must be features.", "a pool must be features."),
        ("nobody must be here.", "nobody must be here."),
    ],
)
def test_messages_name_options(message: str, text: str) -> None:
    assert name_options(message) == text


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("cafe 0.")


def write_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def write_newer(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["cafe_format"] = 99


def write_text(path: Path) -> None:
    path.write_text("not a cache")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (write_truncated, "truncated or damaged: extract or import it again"),
        (write_text, "not a readable cafe cache"),
        (write_newer, "update cafe"),
    ],
)
def test_damaged_caches(run: Run, trees: Path, damage: Callable[[Path], None], text: str) -> None:
    damage(trees)
    check(run("fit", trees), 1, text)


def check(answer: Answer, code: int, *texts: str) -> None:
    """One line on stderr with all the texts, nothing on stdout."""
    assert answer.code == code, answer
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if line.startswith("cafe: ")]
    assert len(lines) == 1, answer.err
    assert answer.err.splitlines()[-1] == lines[0]
    for text in texts:
        assert text in lines[0]


BAD_FITS = [
    (["--method", "clip-adaptor"], "did you mean clip-adapter"),
    (["--shots", "0"], "shots must be from 1 to 8"),
    (["--shots", "9"], "shots must be from 1 to 8"),
    (["--shots", "many"], "'many' is not understood"),
    (["--seeds", "0"], "at least one seed"),
    (["--seeds", "1,1"], "names a seed twice"),
    (["--ratio", "1.5"], "ratio must be from 0"),
    (["--ratio", "-0.1"], "ratio must be from 0"),
    (["--ratio", "much"], "ratio must be from 0"),
    (["--bottleneck", "0"], "bottleneck must be from 1"),
    (["--bottleneck", "D/x"], "bottleneck"),
    (["--device", "gpu"], "unknown device 'gpu'"),
    (["--method", "zero-shot", "--ratio", "0.2"], "has no setting 'ratio'"),
]


@pytest.mark.parametrize(("words", "text"), BAD_FITS, ids=lambda value: str(value)[:40])
def test_bad_fits(run: Run, trees: Path, tmp_path: Path, words: list[str], text: str) -> None:
    check(run("fit", *words), 2, text)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(run: Run, trees: Path) -> None:
    check(run("fit", "--device", "cuda"), 1, "'cuda' was asked for", "--device cpu")


def test_no_cache_at_all(run: Run) -> None:
    check(run("fit"), 1, "no cache in 'cache'", "cafe extract")


def test_no_such_cache(run: Run, trees: Path) -> None:
    check(run("fit", "trees/toy.tset"), 2, "did you mean trees/toy.test")
    check(run("fit", "elsewhere.h5"), 1, "no cache 'elsewhere.h5'")


def test_no_validation_split(run: Run, npz: Path) -> None:
    with np.load(npz) as file:
        np.savez(npz, **{name: file[name] for name in file.files if not name.startswith("val")})
    run("cache", "import", npz, "trees/toy.test")
    check(run("fit", "--validation", "full"), 2, "needs a validation split", "use cv")


def test_import_refuses_labels_without_class_names(run: Run, npz: Path, tmp_path: Path) -> None:
    with np.load(npz) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(npz, **{**arrays, "train_labels": arrays["train_labels"] + 1})
    check(run("cache", "import", npz, "trees/toy.test"), 1, "train_labels", "4 class_names")
    del arrays["class_names"]
    np.savez(npz, **arrays)
    check(run("cache", "import", npz, "trees/toy.test"), 1, "no class_names")
    check(run("cache", "import", npz, "trees"), 2, "dataset/model.pretrained")
    assert not list(tmp_path.rglob("*.h5"))


def test_import_does_not_replace_unasked(run: Run, trees: Path, npz: Path) -> None:
    check(run("cache", "import", npz, "trees/toy.test"), 2, "there already", "--replace")
    assert run("cache", "import", npz, "trees/toy.test", "--replace").code == 0


def test_runs_folder_that_cannot_be_written(run: Run, trees: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["--runs", "file/runs", "--shots", "1", "--seeds", "1", "--epochs", "1"]
    check(run("fit", *words), 1, "cannot write the run")


BAD_EXTRACTS = [
    (["--dataset", "dtdd"], 2, "did you mean dtd"),
    (["--dataset", "photos", "--model", "ViT-B-23"], 2, "did you mean ViT-B-32"),
    (
        ["--dataset", "photos", "--model", "ViT-B-32", "--pretrained", "openay"],
        2,
        "did you mean openai",
    ),
    (["--dataset", "photos", "--model", "nano", "--pretrained", "no.pt"], 1, "no weights at"),
    (["--dataset", "empty"], 1, "empty"),
    (["--dataset", "single"], 1, "single"),
    (["--dataset", "photos", "--split-file", "notes.txt"], 1, "notes.txt"),
    (["--dataset", "photos", "--split-file", "climbs.json"], 1, "../"),
    (["--dataset", "photos", "--split-file", "lacks.json"], 1, "gone.png"),
    (["--dataset", "photos", "--template", "a photo"], 2, "{}"),
    (["--dataset", "photos", "--views", "0"], 2, "views must be at least 1"),
    (["--dataset", "photos", "--pool", "3"], 2, "add --spatial"),
    (["--dataset", "photos", "--spatial", "--pool", "0"], 2, "pool must be at least 1"),
    (["--dataset", "photos", "--precision", "fp16", "--device", "cpu"], 2, "needs CUDA"),
    (["--dataset", "photos", "--cache", "notes.txt/c"], 1, "--cache"),
]


@pytest.mark.parametrize(("words", "code", "text"), BAD_EXTRACTS, ids=lambda v: str(v)[:60])
def test_bad_extracts(
    run: Run, photos: Path, tmp_path: Path, words: list[str], code: int, text: str
) -> None:
    (tmp_path / "empty/class").mkdir(parents=True)
    (tmp_path / "single").mkdir()
    (photos / "red").rename(tmp_path / "single/red") if "single" in words else None
    (tmp_path / "notes.txt").write_text("no JSON")
    row = ["red/0.png", 0, "red"]
    for name, path in (("climbs", "../secret.png"), ("lacks", "blue/gone.png")):
        train = [row, ["blue/0.png", 1, "blue"]]
        split = {"train": train, "val": [], "test": [[path, 1, "blue"]]}
        (tmp_path / f"{name}.json").write_text(json.dumps(split))
    extra = [] if "--model" in words else ["--model", "nano"]
    check(run("extract", *words, *extra), code, text)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_folder_of_photos_from_end_to_end(run: Run, photos: Path, tmp_path: Path) -> None:
    extracted = run("extract", "--dataset", "photos", "--model", "nano")
    assert extracted.code == 0, extracted.err
    assert "12 images" in extracted.out
    again = run("extract", "--dataset", "photos", "--model", "nano")
    assert "is there already" in again.out
    differently = run("extract", "--dataset", "photos", "--model", "nano", "--template", "my {}")
    check(differently, 1, "templates is", "--rebuild")
    fitted = run("fit", "--shots", "1", "--seeds", "2", "--json")
    assert fitted.code == 0, fitted.err
    assert json.loads(fitted.out)["encoder"]["model"] == "nano"


def test_demo_ends_with_the_table_and_what_to_type_next(run: Run) -> None:
    answer = run("demo")
    assert answer.code == 0, answer.err
    for word in ("1 shot", "4 shots", "16 shots", "zero-shot", "nearest-class", "clip-adapter"):
        assert word in answer.out
    commands = [line.split()[1] for line in answer.out.splitlines() if line.startswith("  cafe ")]
    assert commands == ["train", "predict"]


def test_grid_prints_the_map_and_what_was_chosen(run: Run, trees: Path) -> None:
    words = ["--ratio", "0.2,0.6", "--bottleneck", "D/4,8", "--shots", "2,4", "--epochs", "2"]
    answer = run("grid", *words, "--seeds", "2")
    assert answer.code == 0, answer.err
    for word in ("2 shots: mean cv validation", "*", "chosen on cv", "then tested", "16 runs in"):
        assert word in answer.out
    found = json.loads(run("grid", *words, "--seeds", "2", "--json").out)
    assert len(found["runs"]) == 16
    assert {"ratio", "bottleneck", "shots", "seed", "val", "test"} <= found["runs"][0].keys()
    assert found["best"]["shots"] == 4
    assert found["runs_per_second"] > 0
    assert found["protocol"]["validation"] == "cv"


BAD_GRIDS = [
    (["--ratio", ""], "empty grid"),
    (["--ratio", "0.1:2:0.1"], "ratio must be from 0"),
    (["--bottleneck", "D/2,x"], "bottleneck"),
    (["--bottleneck", "100"], "bottleneck must be from 1"),
    (["--shots", "9"], "shots must be from 1 to 8"),
    (["--memory", "2 kilos"], "--memory 2 kilos is not understood"),
    (["--memory", "10"], "memory"),
    (["--ratio", "0:1:0.0002", "--bottleneck", "1,2,3,4"], "use --yes"),
    (["--epochs", "0"], "epochs"),
    (["--batch-size", "0"], "batch"),
    (["--lr", "-1"], "learning rate"),
]


@pytest.mark.parametrize(("words", "text"), BAD_GRIDS, ids=lambda value: str(value)[:40])
def test_bad_grids(run: Run, trees: Path, tmp_path: Path, words: list[str], text: str) -> None:
    shots = [] if "--shots" in words else ["--shots", "4"]
    check(run("grid", *words, *shots), 2, text)
