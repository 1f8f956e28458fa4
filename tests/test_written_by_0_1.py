"""What version 0.1 wrote is still read and says the same, and what it understood is understood.

`data/written_by_0_1/make.py` made the files. Only the command line and the names of `import cafe`
are used here, wherever the modules behind them lie.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import cafe

WRITTEN = Path(__file__).parent / "data" / "written_by_0_1"
EXPECTED: dict[str, Any] = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))
RUNS: dict[str, Any] = EXPECTED["runs"]
HEADS = [(run, head) for run, told in RUNS.items() for head in told["heads"]]
GRID = ["--ratio", "0.2,0.6", "--bottleneck", "2,4", "--shots", "2", "--epochs", "3"]

pytestmark = pytest.mark.usefixtures("one_thread")


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as working directory."""
    folder = tmp_path / "work"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    for name in ("CAFE_CACHE", "CAFE_DATA"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`cafe` in this process."""
    (script,) = entry_points(group="console_scripts", name="cafe")
    main = script.load()

    def call(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["cafe", *words])
        capsys.readouterr()
        try:
            code = main() or 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


def json_of(answer: Answer) -> Any:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def inputs(cache: cafe.FeatureCache, head: str) -> torch.Tensor:
    """The test images as a head takes them: vt-clip the feature and then its map."""
    x = torch.from_numpy(cache.read("test", dtype="float32").features)
    if not head.startswith("vt-clip"):
        return x
    maps = torch.from_numpy(cache.read_spatial_maps("test", dtype="float32"))
    return torch.cat([x[:, None], maps], dim=1)


@pytest.mark.parametrize("path", EXPECTED["caches"])
def test_a_cache_is_read(path: str, work: Path, run: Run) -> None:
    told, cache = EXPECTED["caches"][path], cafe.FeatureCache.open(path)
    assert cache.content_sha256 == told["content_sha256"]
    assert dict(cache.counts) == told["counts"]
    for name, now in (("width", "width"), ("views", "views"), ("tokens", "spatial_size")):
        assert getattr(cache, now) == told[name]
    assert list(cache.header.class_names) == told["class_names"]
    assert dict(cache.header.key) == told["key"]
    assert cache.read("train").features.shape == (told["counts"]["train"], told["width"])
    assert run("cache", "verify", path).code == 0
    shown = json_of(run("cache", "show", path, "--json"))
    assert shown["class_names"] == told["class_names"]


def test_the_caches_are_listed(work: Path, run: Run) -> None:
    rows = json_of(run("cache", "ls", "--json"))
    assert sorted(f"cache/{row['name']}.h5" for row in rows) == sorted(EXPECTED["caches"])


def test_a_cache_is_what_the_images_give_today(work: Path, run: Run) -> None:
    words = ["--sample", "8", "--dataset", "few", "--json"]
    assert json_of(run("cache", "verify", "few/nano.glyphs", *words))
    words = ["extract", "--dataset", "few", "--model", "nano", "--template", "a {}.", "--json"]
    before = Path("cache/few/nano.glyphs.h5").read_bytes()
    assert run(*words, "--precision", "fp32", "--device", "cpu").code == 0
    assert Path("cache/few/nano.glyphs.h5").read_bytes() == before  # taken as it is


@pytest.mark.parametrize(("name", "file"), HEADS)
def test_a_head_says_the_same(name: str, file: str, work: Path) -> None:
    told = RUNS[name]["heads"][file]
    saved = cafe.load_head(Path("runs", name, file))
    cache = cafe.FeatureCache.open(RUNS[name]["cache"])
    found = saved.probabilities(inputs(cache, file))
    assert list(saved.class_names) == told["class_names"]
    torch.testing.assert_close(found, torch.tensor(told["probabilities"]), atol=2e-4, rtol=0)
    for row, label in zip(found, told["labels"], strict=True):
        best = saved.class_names[int(row.argmax())]
        assert best == label or row.sort().values[-2:].diff() < 4e-4  # a tie, but for rounding


@pytest.mark.parametrize("name", RUNS)
def test_a_head_scores_what_the_record_says(name: str, work: Path) -> None:
    cache = cafe.FeatureCache.open(RUNS[name]["cache"])
    record = json.loads(Path("runs", name, "record.json").read_text(encoding="utf-8"))
    for row in record["results"]:
        kind = f"{row['method']}.{row['shots']}shot"
        assert row["accuracy"]["per_seed"] == RUNS[name]["accuracy"][kind]
        seeds, scores = record["protocol"]["seeds"], row["accuracy"]["per_seed"]
        for seed, score in zip(seeds, scores, strict=True):
            file = f"{kind}.seed{seed}.safetensors"
            saved = cafe.load_head(Path("runs", name, file))
            y = torch.from_numpy(cache.labels("test"))
            own = y < len(saved.class_names)  # base-to-new: the first classes
            answers = saved.probabilities(inputs(cache, file)[own]).argmax(dim=1)
            right = (answers == y[own]).double().mean().item()
            assert 100 * right == pytest.approx(score, abs=100.01 / int(own.sum()))


def test_every_method_is_among_the_heads() -> None:
    assert {head.split(".")[0] for _, head in HEADS} == set(EXPECTED["methods"])


@pytest.mark.parametrize("name", EXPECTED["predict"])
def test_new_images_get_the_same_answers(name: str, work: Path, run: Run) -> None:
    words = ["predict", f"runs/{name}", "few/test", "--format", "jsonl", "--top", "4"]
    answer = run(*words, "--device", "cpu")
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    for one, told in zip(found, EXPECTED["predict"][name], strict=True):
        assert (one["image"], one["label"]) == (told["image"], told["label"])
        for mine, theirs in zip(one["top"], told["top"], strict=True):
            assert mine["probability"] == pytest.approx(theirs["probability"], abs=1e-3)
    loaded = cafe.Predictor.load(f"runs/{name}", device="cpu")
    labels = [one.label for one in loaded.predict("few/test")]
    assert labels == [told["label"] for told in EXPECTED["predict"][name]]


def test_answers_are_explained_by_the_cache(work: Path, run: Run) -> None:
    words = ["predict", "runs/fit", "few/test/one", "--format", "jsonl", "--explain"]
    answer = run(*words, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "train/one/" in answer.out


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_reported(name: str, work: Path, run: Run) -> None:
    answer = run("report", f"runs/{name}", "-o", "page.html")
    assert answer.code == 0, answer.err
    page = Path("page.html").read_text(encoding="utf-8")
    assert all(row.split(".")[0] in page for row in RUNS[name]["accuracy"])


def test_runs_are_reported_together(work: Path, run: Run) -> None:
    assert run("report", *(f"runs/{name}" for name in RUNS), "-o", "page.html").code == 0


@pytest.mark.parametrize("name", ["fit", "fit-auto", "compare"])
def test_a_head_is_exported(name: str, work: Path, run: Run) -> None:
    answer = run("export", f"runs/{name}", "-o", "out.safetensors")
    assert answer.code == 0, answer.err
    assert cafe.load_head("out.safetensors").class_names


def test_an_interrupted_grid_goes_on(work: Path, run: Run) -> None:
    (journal,) = Path("runs").glob(".grid-*/rows.jsonl")
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    kept = {(row["seed"], row["ratio"], row["bottleneck"]): row for row in rows}
    words = [*GRID, "--seeds", "3", "--validation", "few-shot", "--precision", "fp32"]
    found = json_of(run("grid", "few/nano.glyphs", *words, "--device", "cpu", "--json"))
    assert len(found["runs"]) == 12
    assert 0 < len(kept) < 12
    assert round(found["seconds"] * found["runs_per_second"]) == 12 - len(kept)
    taken = {(row["seed"], row["ratio"], row["bottleneck"]): row for row in found["runs"]}
    for cell, row in kept.items():
        assert {**taken[cell], "test": None} == row
    assert not journal.exists()


def test_the_draws_are_the_same(work: Path, run: Run) -> None:
    """Methods in closed form, fitted anew on the old cache, score what they scored."""
    methods = ["zero-shot", "nearest-class", "knn", "tip-adapter", "gda", "lda-prior"]
    words = ["--methods", ",".join(methods), "--shots", "4", "--seeds", "1", "--json"]
    found = json_of(run("compare", "few/tiny.none", *words, "--device", "cpu"))
    for row in found["results"]:
        told = RUNS["compare"]["accuracy"][f"{row['method']}.4shot"]
        assert row["accuracy"]["per_seed"] == pytest.approx(told, abs=100.01 / 12)  # one image


def test_a_meta_file_is_taken(work: Path, run: Run) -> None:
    words = ["--methods", "zero-shot,meta-adapter", "--meta", "meta.safetensors", "--shots", "4"]
    found = json_of(run("compare", "few/tiny.none", *words, "--device", "cpu", "--json"))
    assert found["results"][-1]["method"] == "meta-adapter"


def test_learned_words_are_taken(work: Path, run: Run) -> None:
    words = ["--method", "sgva", "--words", "runs/compare/coop.4shot.seed0.safetensors"]
    words += ["--shots", "2", "--seeds", "1", "--epochs", "1", "--json"]
    assert json_of(run("fit", "few/tiny.none", *words, "--device", "cpu"))["results"]


def test_every_name_is_there() -> None:
    for name in EXPECTED["names"]:
        assert getattr(cafe, name) is not None
    assert set(EXPECTED["names"]) <= set(cafe.__all__)


def test_every_method_is_there(run: Run) -> None:
    names = [row["name"] for row in json_of(run("methods", "--json"))]
    assert set(EXPECTED["methods"]) <= set(names)


@pytest.mark.parametrize("command", EXPECTED["commands"])
def test_every_option_is_accepted(command: str, run: Run) -> None:
    for *names, last in EXPECTED["commands"][command]:
        takes_value = last == "value"
        for name in names if takes_value else [*names, last]:
            if name in ("--help", "--version", "--install-completion", "--show-completion"):
                continue  # they answer and stop by themselves
            value = ["x"] if takes_value else []
            answer = run(*command.split(), name, *value, "--help")
            assert answer.code == 0, (command, name, answer.err)
            assert "Usage: " in answer.out


def test_the_check_of_options_can_fail(run: Run) -> None:
    assert run("fit", "--no-such-option", "x", "--help").code == 2
