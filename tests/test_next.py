"""`cafe next`: where images without a label come from, and what is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digits_run import Answer
from digits_run import call as call_cafe
from making import make_block, make_header

import cafe
from cafe.curation.contact_sheet import write_contact_sheet
from cafe.curation.suggestions import Suggestion, read_suggestions
from cafe.curation.unlabelled import without_label
from cafe.datasets import load_dataset
from cafe.errors import DatasetError
from cafe.store import write_cache

Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/<class>/`, `new/` and `mixed/` (as photos, with `unlabelled/`), with their caches."""
    folder = tmp_path_factory.mktemp("next")
    digits = load_dataset("digits")
    for target, split, step in (("photos", "train", 12), ("new", "test", 20)):
        for item in digits.splits[split][::step]:
            below = digits.class_names[item.label] if target == "photos" else ""
            path = folder / target / below / f"{item.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            digits.open_image(item).save(path)
    shutil.copytree(folder / "photos", folder / "mixed")
    shutil.copytree(folder / "new", folder / "mixed/Unlabelled")
    for name in ("photos", "mixed"):
        cafe.Extractor("nano", device="cpu", precision="fp32").extract(
            folder / name, cache=folder / "cache"
        )
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(work)

    def call(*words: str) -> Answer:
        return call_cafe(monkeypatch, capsys, "next", *words)

    return call


def test_files_are_encoded_and_chosen_from(run: Run, work: Path) -> None:
    answer = run("photos", "new", "--budget", "5", "-o", "n.csv", "--sheet", "n.html", "--json")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)
    assert len({row["id"] for row in rows}) == 5
    assert all((work / row["id"]).is_file() and row["current"] == "" for row in rows)
    assert [row.id for row in read_suggestions(work / "n.csv")] == [row["id"] for row in rows]
    page = (work / "n.html").read_text()
    assert page.count("data:image/jpeg") == 5
    assert "http" not in page.replace("http-equiv", "")


def test_a_folder_is_named_as_the_page_of_a_model_takes_it(run: Run) -> None:
    words = ("--budget", "3", "--json")
    assert run("photos", "--unlabelled", "new", *words) == run("photos", "new", *words)


def test_a_class_called_unlabelled_is_chosen_from(run: Run) -> None:
    answer = run("mixed", "--budget", "4", "--json")
    rows = json.loads(answer.out)
    assert {row["current"] for row in rows} == {"Unlabelled"}
    assert all(row["id"].startswith("Unlabelled/") for row in rows)
    assert "Unlabelled" not in {row["proposed"] for row in rows}


def test_both_spellings_of_no_label_are_chosen_from(tmp_path: Path) -> None:
    names = ("Unlabelled", "left", "right", "unlabeled")
    labels = np.arange(12, dtype=np.int32) % 4
    block = replace(make_block(12), labels=labels)
    path = tmp_path / "c.h5"
    write_cache(path, make_header(classes=4, class_names=names), {"train": [block]})
    pool = without_label(cafe.FeatureCache.open(path))
    assert pool.current == ["Unlabelled", "unlabeled"] * 3
    assert len(pool.ids) == len(pool.x) == 6


def test_another_cache_is_chosen_from_without_copies(run: Run) -> None:
    answer = run("photos", "--pool", "mixed", "--budget", "999")
    labelled = cafe.FeatureCache.open("cache/photos/nano.glyphs.h5").counts["train"]
    assert f"{labelled} images left out: labelled in the cache already." in answer.err
    assert "Unlabelled/" in answer.out


def test_a_folder_without_classes_is_a_pool(
    run: Run, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted = call_cafe(monkeypatch, capsys, "extract", "new", "--model", "nano")
    assert "Images without labels. Next: cafe fit CACHE --method auto --pool new" in extracted.out
    assert "zero-shot accuracy" not in extracted.err
    assert json.loads(run("photos", "--pool", "new", "--budget", "2", "--json").out)
    names = {path.name for path in (work / "new").iterdir()}
    assert {row["id"] for row in json.loads(run("new", "--budget", "3", "--json").out)} <= names
    with pytest.raises(DatasetError, match="only images outside of any class folder"):
        cafe.train(cafe.FeatureCache.open("new"), device="cpu")
    with pytest.raises(DatasetError, match="only images outside of any class folder"):
        cafe.check(cafe.FeatureCache.open("new"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["photos"], 1, "has a label; name files or folders .* give --pool another cache"),
        (["photos", "new", "--pool", "mixed"], 2, "two places to choose from; give one"),
        (["photos", "--unlabelled", "new", "--pool", "mixed"], 2, "two places to choose from"),
        (["photos", "--unlabelled", "no-such"], 1, "no-such: there is no such file"),
        (["photos", "new", "--budget", "0"], 2, "--budget must be at least 1; got 0"),
        (["photos", "new", "-o", "photos/"], 2, "cannot write 'photos'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Run, words: list[str], code: int, message: str
) -> None:
    answer = run(*words)
    assert answer.code == code
    assert answer.out == ""
    assert re.search(message, answer.err)


def test_hostile_names_are_text_on_the_sheet(tmp_path: Path) -> None:
    rows = [Suggestion("<script>alert(1)</script>", "unlabelled", "", "\udcff<b>\u202e", 0.5)]
    assert write_contact_sheet(tmp_path / "s.html", rows) == 0
    page = (tmp_path / "s.html").read_text()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "\u202e" not in page  # it would turn what stands after it
    assert "no picture" in page
