"""Exported files answer as the original does, with nothing of cafe, and say how to load them."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import Answer, call, digits_run
from drawing import draw_images, draw_task
from huggingface_hub import ModelCard
from needing import settings_for

import cafe
from cafe.encoders.recorded import load_recorded_encoder
from cafe.errors import CafeError, InputError
from cafe.inference import export, graphs
from cafe.inference.graphs import HeadGraph, trace
from cafe.inference.head_encoders import record_of_head
from cafe.methods.base import Context
from cafe.methods.catalog import CATALOG, find_method, make_method
from cafe.results.runs import find_head
from cafe.results.saved_head import SavedHead

Run = Callable[..., Answer]
NO_ONNX = any(importlib.util.find_spec(name) is None for name in graphs.ONNX_PACKAGES)
onnx = pytest.mark.skipif(NO_ONNX, reason="the extra cafe-clip[onnx] is not installed")


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = digits_run(tmp_path_factory)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: call(monkeypatch, capsys, *words)


def code_of(card: Path) -> list[str]:
    """The Python in a card."""
    return re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)


def execute(code: list[str], folder: Path, **names: Any) -> dict[str, Any]:
    """Run a card's Python as its reader would, beside the file."""
    for block in code:
        text = re.sub(r'"([^"/]+\.(?:onnx|pt2|safetensors))"', rf'"{folder}/\1"', block)
        exec(text.replace('"photo.jpg"', '"photos/three.png"'), names)  # noqa: S102
    return names


IN_GRAPHS = [name for name in CATALOG if not find_method(name).head.no_graph]


def test_heads_of_pools_alone_are_in_no_graph() -> None:
    assert {*CATALOG} - {*IN_GRAPHS} == {"transclip", "stata", "zlap"}


@pytest.mark.parametrize("name", IN_GRAPHS)
def test_every_head_goes_into_a_graph(name: str) -> None:
    train = draw_task()
    settings = {"epochs": 2, **settings_for(name)}
    head = make_method(name, Context(precision="fp32"), settings).fit(train)
    x = draw_images().inputs(**head.takes)
    about = {"class_names": list(train.text.names), "calibration": {"temperature": 1.7}}
    saved = SavedHead(head, about)
    program = trace(HeadGraph(saved), x[:2]).module()
    for rows in (x, x[:1]):
        torch.testing.assert_close(program(rows), saved.probabilities(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["safetensors", "torch", pytest.param("onnx", marks=onnx)])
def test_a_head_alone(run: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"made{export.SUFFIXES[form]}"
    answer = run("export", "runs/mine", "-o", path)  # its suffix says the format
    assert answer.code == 0, answer.err
    assert "64 test images' features" in answer.out
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, f"{path.name}.md"]
    test = cafe.load_task(cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")).splits["test"]
    features = test.x[:7].numpy()
    found = execute(code_of(path.with_name(f"{path.name}.md")), tmp_path, features=features)
    expected = cafe.load_head(find_head("runs/mine")).probabilities(test.x[:7])
    np.testing.assert_allclose(np.asarray(found["probabilities"].tolist()), expected, atol=1e-5)
    assert found["names"][0] in cafe.load_head(find_head("runs/mine")).class_names


@pytest.mark.parametrize("form", ["torch" if NO_ONNX else "onnx"])  # one: it takes seconds
def test_from_pixels_to_probabilities(run: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"whole{export.SUFFIXES[form]}"
    words = ["--with-encoder", "--images", "digits", "--images", "photos", "-o", path]
    answer = run("export", "runs/mine", "--format", form, *words)
    assert answer.code == 0, answer.err
    images = 1 + len(list(Path("digits").rglob("*.png")))
    assert f"on {images} images" in answer.out
    card = path.with_name(f"{path.name}.md")
    found = execute(code_of(card), tmp_path)
    (expected,) = cafe.Predictor.load("runs/mine", device="cpu").predict("photos")
    assert found["names"] == ["three"] == [expected.label]
    assert float(found["probabilities"].max()) == pytest.approx(expected.probability, abs=1e-4)


def test_the_card_tells_what_matters(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    assert run("export", "runs/mine", "-o", path, "--method", "nearest-class").code == 0
    text = (tmp_path / "head.safetensors.md").read_text()
    record = json.loads(Path("runs/mine/record.json").read_text())
    score = record["results"][-2]["accuracy"]["per_seed"][0]
    for part in (
        "# nearest-class on digits",
        f"{score:.2f}",
        record["protocol"]["words"],
        record["encoder"]["weights_sha256"],
        "zero, one, two",
        "temperature of",
        "## Limits",
    ):
        assert part in text
    metadata = ModelCard(text).data.to_dict()
    (entry,) = metadata["model-index"]
    assert entry["name"] == "nearest-class on digits"
    assert entry["results"][0]["metrics"][0]["value"] == round(score, 2)
    assert metadata["library_name"] == "cafe"


def test_resizing_in_the_card_is_the_preprocess(work: Path, tmp_path: Path) -> None:
    from PIL import Image

    from cafe.inference.model_card import write_card

    saved = cafe.load_head(find_head("runs/mine"))
    encoder = load_recorded_encoder(record_of_head(saved), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    card = write_card(
        saved,
        file="head.onnx",
        format="onnx",
        checked="",
        width=512,
        preprocess=encoder.preprocess.config,
    )
    block, _ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block.replace("photo.jpg", str(tmp_path / "photo.png")), names)  # noqa: S102
    expected = encoder.preprocess.pixels(Image.open(tmp_path / "photo.png"))
    assert np.array_equal(names["pixels"][0], expected.transpose(2, 0, 1))


def test_a_file_that_answers_otherwise_is_not_kept(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "run_torch", lambda _, rows: (torch.zeros(len(rows), 10),))
    with pytest.raises(CafeError, match="differ by"):
        cafe.export_head("runs/mine", "torch", output=tmp_path / "bad.pt2")
    assert list(tmp_path.iterdir()) == []


def test_refusals(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, code, text in (
        (["--with-encoder"], 2, "holds the head alone"),
        (["--images", "photos"], 2, "add --with-encoder"),
        (["-o", "photos/three.png/x"], 1, "cannot write"),
    ):
        answer = run("export", "runs/mine", *words)
        assert answer.code == code
        assert text in answer.err
    with pytest.raises(InputError, match="unknown format 'pt'"):
        cafe.export_head("runs/mine", "pt")  # type: ignore[arg-type]
    monkeypatch.setattr(graphs, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(CafeError, match=r"pip install 'cafe-clip\[onnx\]'"):
        cafe.export_head("runs/mine", "onnx", output=tmp_path / "x.onnx")
