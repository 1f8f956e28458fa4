"""Classes of one name, as ImageNet's two cranes: told apart by text and index, shown with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from digits_run import call, digits_run
from PIL import Image
from test_importers_folders import Set, clip_retrieval, target

import cafe
from cafe.datasets import load_dataset
from cafe.datasets.prompts import read_prompts
from cafe.datasets.text_files import distinct_names
from cafe.errors import CacheFormatError, InputError, UnknownNameError
from cafe.extract.importers import import_features
from cafe.results.runs import find_head

NAMES = ("crane", "ibis", "crane", "maillot", "maillot", "five", "six", "seven", "eight", "nine")
SHOWN = ("crane (0)", "ibis", "crane (2)", "maillot (3)", "maillot (4)", *NAMES[5:])


def test_names_that_several_classes_have_get_their_index() -> None:
    assert distinct_names(NAMES) == SHOWN
    assert distinct_names(("a", "b")) == ("a", "b")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits under other names, each class with a text of its own, and a run on them."""
    folder = tmp_path_factory.mktemp("names")
    digits = load_dataset("digits", class_names=NAMES)
    texts = dict(zip(SHOWN, load_dataset("digits").class_names, strict=True))
    prompts = folder / "prompts.json"
    prompts.write_text(
        json.dumps({name: [f"a photo of the number {t}."] for name, t in texts.items()})
    )
    extractor = cafe.Extractor("nano", device="cpu", precision="fp32")
    cache = extractor.extract(digits, prompts=prompts, cache=folder / "cache")
    assert cache.header.class_names == NAMES
    assert len(np.unique(cache.header.text_features, axis=0)) == 10
    cafe.fit(cache, shots=4, seeds=1, epochs=20, runs=folder / "runs", device="cpu")
    return folder


def test_a_head_shows_them_apart(
    work: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = digits_run(tmp_path_factory) / "digits"
    monkeypatch.chdir(work)
    words = ("predict", "runs", images, "--explain", "--format", "jsonl", "--cache", "cache")
    answer = call(monkeypatch, capsys, *words)
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    labels = {one["label"] for one in found}
    assert {"crane (0)", "crane (2)", "maillot (3)"} <= labels <= set(SHOWN)
    assert {near["label"] for one in found for near in one["nearest"]} <= set(SHOWN)
    saved = cafe.load_head(find_head(work / "runs"))
    assert saved.class_names == NAMES


def test_pages_and_exports_show_them_apart(work: Path) -> None:
    page = cafe.write_report([work / "runs"], work / "page.html").read_text(encoding="utf-8")
    assert "crane (0)" in page
    assert "maillot (4)" in page
    (work / "out").mkdir()
    cafe.export_head(work / "runs", output=work / "out/head.safetensors")
    card = next((work / "out").rglob("*.md")).read_text(encoding="utf-8")
    assert "crane (2)" in card


@pytest.mark.parametrize("listed", [True, False])
def test_folders_may_have_one_name_where_it_is_given(tmp_path: Path, listed: bool) -> None:
    folders = ("n02012849", "n02018207", "n03126707")
    for folder in folders:
        (tmp_path / folder).mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / folder / f"{number}.png")
    names = NAMES[:3] if listed else dict(zip(folders, NAMES, strict=False))
    data = load_dataset(tmp_path, class_names=names)
    assert data.class_names == NAMES[:3]
    assert {item.label for item in data.splits["train"]} == {0, 1, 2}


def test_a_table_of_numbers_and_names_may_too(tmp_path: Path) -> None:
    rows = ["path,label,class_name"]
    for label, name in enumerate(NAMES[:3]):
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{label}{number}.png")
            rows.append(f"{label}{number}.png,{label},{name}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    assert load_dataset(tmp_path / "all.csv").class_names == NAMES[:3]


def test_sentences_of_one_name_are_those_of_each_class_or_of_all(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(
        json.dumps({"crane": ["a crane."], "crane (2)": ["a crane at a site."], "ibis": "i."})
    )
    assert read_prompts(file, NAMES[:3]) == [["a crane."], ["i."], ["a crane at a site."]]
    file.write_text(json.dumps({"crane (1)": ["a crane."], "crane": ["a."], "ibis": "i."}))
    with pytest.raises(UnknownNameError, match=r"unknown class 'crane \(1\)'"):
        read_prompts(file, NAMES[:3])


def test_names_in_metadata_must_mean_one_class(tmp_path: Path) -> None:
    data = Set()
    paths = [f"x/test/{'abcae'[y]}/{row}.jpg" for row, y in enumerate(data.y.tolist())]
    text, names = data.text_file(tmp_path), tmp_path / "names.txt"
    by_name = clip_retrieval(tmp_path / "named", data, paths)
    by_number = clip_retrieval(tmp_path / "numbered", data, paths, label=data.y.tolist())
    names.write_text("a\nb\nc\na\ne\n")
    with pytest.raises(CacheFormatError, match="2 of the class names given are 'a'"):
        import_features(by_name, target(tmp_path), text=text, classes=names)
    cache = import_features(by_number, target(tmp_path), text=text, classes=names)
    assert cache.header.class_names == ("a", "b", "c", "a", "e")


def test_the_estimator_takes_numbers_for_them() -> None:
    data = Set()
    given = {"text_features": data.text, "epochs": 2}
    named = np.array(["a", "b", "c", "a", "e"])
    with pytest.raises(InputError, match="where several classes have one name, numbers for labels"):
        cafe.AdapterClassifier(class_names=named, **given).fit(data.x, named[data.y])
    assert cafe.AdapterClassifier(**given).fit(data.x, data.y).score(data.x, data.y) > 0.9
