"""A new method is one file and one row: every part of cafe takes it from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from digits_run import call

import cafe
from cafe.errors import CafeError, InputError
from cafe.methods.catalog import CATALOG, find_method
from cafe.results.record import Record

ONE_FILE = '''
"""Class texts drawn towards the mean of their shots."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.methods.base import NO_VALIDATION, Method
from cafe.methods.head import Head, scale_params


@dataclass(frozen=True, eq=False)
class ToyHead(Head):
    """`s norm(x) norm((1 - a) w + a m)^T` with m the class means."""

    weights: Tensor  # (C, D)

    no_graph = "it is a toy"

    def logits(self, x):
        return self.scale_cosines(normalize(x, dim=-1) @ self.weights.mT)


class Toy(Method):
    """Texts with a share of the shots.

    Parameters
    ----------
    share : float
        a, from 0 (zero-shot) to 1 (the shots' mean).
    """

    name = "toy"
    summary = "class texts drawn towards the mean of their shots"
    source = "nobody 2026, nowhere"
    head = ToyHead
    no_new_classes = "a toy has no mean for a new class"

    def __init__(self, share=0.5, *, context=None):
        super().__init__(context)
        self.share = share

    def fit(self, train, *, validation=NO_VALIDATION, seed=0):
        text, features = train.text, train.features
        sums = torch.zeros_like(text.weights).index_add_(0, features.y, features.unit)
        mixed = (1 - self.share) * text.weights + self.share * normalize(sums, dim=-1)
        params = {"share": self.share, **scale_params(text)}
        return self.make_head({"weights": normalize(mixed, dim=-1)}, params)
'''
ONE_ROW = ("toy", "toy_method:Toy")
DATA = Path(__file__).parent / "data" / "written_by_0_1"
CACHE = DATA / "cache/few/nano.glyphs.h5"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one file; the row is there too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_method.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CATALOG, *ONE_ROW)
    monkeypatch.delitem(sys.modules, "toy_method", raising=False)
    return tmp_path


def fit_toy(**settings: object) -> Record:
    return cafe.fit(CACHE, method="toy", shots=4, seeds=2, device="cpu", **settings)


def test_fit_takes_it_with_the_settings_of_its_signature(toy: Path) -> None:
    record = fit_toy(share=0.3)
    assert [result.method for result in record.results] == ["zero-shot", "nearest-class", "toy"]
    assert record.results[-1].heads[0].params["share"] == 0.3
    assert record.results[-1].accuracy.mean > 90
    with pytest.raises(InputError, match="toy has no setting 'ratio'; it has share"):
        fit_toy(ratio=0.3)


def test_compare_takes_it_and_says_why_it_has_no_new_classes(toy: Path) -> None:
    names = ["clip-adapter", "toy"]
    row = cafe.compare(CACHE, methods=["toy"], shots=[1], seeds=1, runs=None).json["results"][0]
    assert (row["method"], row["shots"]) == ("toy", 1)
    found = cafe.compare(CACHE, methods=names, shots=[1], seeds=1, base_to_new=True, runs=None)
    assert found.json["left_out"] == {"toy": "a toy has no mean for a new class"}
    with pytest.raises(InputError, match="toy cannot take new classes; base-to-new works for zero"):
        cafe.compare(CACHE, methods=["toy"], base_to_new=True, runs=None)


def test_compare_of_all_methods_has_it_among_them(toy: Path) -> None:
    with patch.dict(CATALOG):  # puts the methods back in their order
        for name in CATALOG.keys() - {"zero-shot", "meta-adapter", "toy"}:
            del CATALOG[name]
        found = cafe.compare(CACHE, shots=[1], seeds=1, runs=None)
    assert [row["method"] for row in found.json["results"]] == ["zero-shot", "toy"]


def test_its_saved_head_predicts(toy: Path) -> None:
    folder = fit_toy().folder
    assert folder is not None
    predictor = cafe.Predictor.load(folder, method="toy", device="cpu")
    (answer,) = predictor.predict(DATA / "few/test/three/0153.png")
    assert answer.label == "three"
    saved = cafe.load_head(folder / "toy.4shot.seed1.safetensors")
    assert saved.head.method == "toy"
    assert saved.head.params["share"] == 0.5


def test_export_refuses_in_one_line_what_its_head_cannot_be(toy: Path) -> None:
    folder = fit_toy().folder
    assert folder is not None
    with pytest.raises(InputError) as refused:
        cafe.export_head(folder, "torch", method="toy", output="toy.pt2")
    assert str(refused.value) == (
        "a head of toy cannot be exported as torch: it is a toy; take safetensors."
    )
    assert not (toy / "toy.pt2").exists()
    made = cafe.export_head(folder, method="toy", output="toy.safetensors")
    assert made.difference == 0
    assert "toy" in made.card.read_text()


def test_report_and_the_command_line_take_it(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(monkeypatch, capsys, "fit", CACHE, "--method", "toy", "--shots", "4")
    assert answer.code == 0, answer.err
    page = cafe.write_report(["runs"]).read_text()
    assert "toy" in page
    listed = json.loads(call(monkeypatch, capsys, "methods", "--json").out)
    assert {
        "name": "toy",
        "summary": "class texts drawn towards the mean of their shots",
        "source": "nobody 2026, nowhere",
        "needs": "",
        "settings": ["share"],
    } in listed
    assert "toy" in call(monkeypatch, capsys, "methods").out
    assert "a, from 0 (zero-shot)" in call(monkeypatch, capsys, "methods", "toy").out


def test_a_package_brings_its_methods_by_entry_points(tmp_path: Path) -> None:
    (tmp_path / "toy_method.py").write_text(ONE_FILE)
    installed = tmp_path / "toy_method-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1\n")
    points = "[cafe.methods]\n{} = {}\ngda = toy_method:Toy\n".format(*ONE_ROW)
    (installed / "entry_points.txt").write_text(points)
    code = (
        "from cafe.methods.catalog import find_method as find\n"
        "print(find('toy').name, find('gda').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.split() == ["toy", "gda"]  # cafe's own rows stay its own


@pytest.mark.parametrize("place", ["toy_method_that_is_gone:Toy", "cafe.methods.base:Toy"])
def test_a_row_without_a_class_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setitem(CATALOG, "toy", place)
    with pytest.raises(CafeError, match=f"method 'toy' cannot be loaded from '{place}'"):
        find_method("toy")


def test_settings_are_those_of_the_constructors() -> None:
    recipe = ("lr", "weight_decay", "epochs", "batch_size", "views")
    assert find_method("zero-shot").settings() == ()
    assert find_method("gda").settings() == ("alpha", "alphas")
    assert find_method("clap").settings() == ("strength", "recipe", *recipe)
    visual, text, both = (
        set(find_method(name).settings())
        for name in ("clip-adapter", "clip-adapter-text", "clip-adapter-both")
    )
    assert visual - text == {"counterfactual"}
    assert both - text == {"text_ratio"}
