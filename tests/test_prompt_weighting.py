"""Prompts weighted by the shots, against a loop over classes, in every place that takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import call
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from torch.nn.functional import normalize

import cafe
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.catalog import CATALOG, find_method, make_method
from cafe.methods.prompt_weighting import WeightedText, is_weighted, weigh_prompts

pytestmark = pytest.mark.usefixtures("one_thread")

TIMO: dict[str, Any] = {"prompts_weighting": "timo"}
TEST = draw_images()


def weights_by_class(train: TrainingSet, gamma: float) -> torch.Tensor:
    rows = []
    for c in range(CLASSES):
        prompts = normalize(train.text.features[c], dim=-1)
        mean = normalize(train.features.unit[train.features.y == c].mean(dim=0), dim=-1)
        share = np.exp(gamma * (prompts @ mean).double().numpy())
        rows.append(torch.from_numpy(share / share.sum()).float() @ prompts)
    return normalize(torch.stack(rows), dim=-1)


def test_is_the_formula() -> None:
    train = draw_task((3, 1, 4, 2, 5), prompts=4)
    text = WeightedText.of(train.text, train.features)
    torch.testing.assert_close(text.weights, weights_by_class(train, 50))
    plain = weigh_prompts(train.text, train.features, gamma=0)
    torch.testing.assert_close(plain, torch.full((CLASSES, 4), 0.25))


def test_no_shot_and_no_prompt_have_no_say() -> None:
    train = draw_task((3, 3, 0, 3, 3), prompts=3)
    train.text.features[1, 2] = 0  # this class has two prompts
    weights = weigh_prompts(train.text, train.features)
    torch.testing.assert_close(weights[2], torch.full((3,), 1 / 3))
    assert weights[1, 2] == 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(CLASSES))


def test_a_fold_weighs_by_its_own_shots() -> None:
    train = draw_task()
    weighted = TrainingSet(train.features, WeightedText.of(train.text, train.features))
    rows = torch.arange(0, len(train.features), 2)
    alone = WeightedText.of(train.text, train.features[rows])
    torch.testing.assert_close(weighted.part(rows).text.weights, alone.weights)
    assert not torch.equal(alone.weights, weighted.text.weights)


@pytest.mark.parametrize("name", [name for name in CATALOG if not find_method(name).needs])
@pytest.mark.parametrize("protocol", ["none", "cv"])
def test_every_method_takes_it_or_stays_as_it_is(name: str, protocol: str) -> None:
    settings = {"epochs": 4, "steps": 4}
    train = draw_task()
    with_it = make_method(name, Context(precision="fp32"), settings | TIMO)
    head = with_it.fit(train, validation=Validation(protocol))  # type: ignore[arg-type]
    assert head.method == name
    said = head.params.get("prompts_weighting")
    assert said == ("timo" if is_weighted(find_method(name), TIMO) else None)
    plain = make_method(name, Context(precision="fp32"), settings)
    before = plain.fit(train, validation=Validation(protocol))  # type: ignore[arg-type]
    assert torch.equal(before.logits(TEST.x), head.logits(TEST.x)) is (said is None)


def test_equals_a_fit_on_the_weighted_text() -> None:
    train, held = draw_task(), draw_validation_set()
    text = train.text
    one = ClassText(weights_by_class(train, 50)[:, None], text.names, text.logit_scale)
    expected = make_method("gda", Context(), {}).fit(
        TrainingSet(train.features, one), validation=held
    )
    head = make_method("gda", Context(), TIMO).fit(train, validation=held)
    torch.testing.assert_close(head.logits(TEST.x), expected.logits(TEST.x), atol=1e-3, rtol=0)


def make_cache(folder: Path, prompts: int) -> cafe.FeatureCache:
    """Four clusters, and prompts of different worth about them."""
    noise = np.random.default_rng(0)
    y, centres = np.arange(40) % 4, noise.normal(size=(4, 8))
    spread = np.linspace(0.1, 3, prompts)[:, None]
    arrays = {
        "text_prompts": centres[:, None] + spread * noise.normal(size=(4, prompts, 8)),
        "class_names": np.array(["a", "b", "c", "d"]),
        "logit_scale": np.array(20.0),
    }
    for split in ("train", "test"):
        arrays[f"{split}_features"] = centres[y] + noise.normal(size=(40, 8))
        arrays[f"{split}_labels"] = y
    np.savez(folder / "some.npz", **arrays)  # type: ignore[arg-type]
    return cafe.import_features(folder / "some.npz", folder / "some.h5")


def test_fit_compare_and_train_record_it(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, 5)
    how: dict[str, Any] = {"shots": [4], "seeds": 1, "runs": None}
    names = ["zero-shot", "nearest-class", "gda"]
    plain = cafe.fit(cache, method="gda", **how)
    assert "TIMO" not in plain.protocol.words
    for record in (
        cafe.fit(cache, method="gda", **how, **TIMO),
        cafe.compare(cache, methods=names, **how, **TIMO).record,
    ):
        said = {r.method: r.params.get("prompts_weighting") for r in record.results}
        assert said == {"zero-shot": None, "nearest-class": None, "gda": "timo"}
        assert "TIMO" in record.protocol.words
    model = cafe.train(cache, method="gda", output=tmp_path / "model", **TIMO)
    assert model.record.json["settings"]["prompts_weighting"] == "timo"
    again = cafe.train(cache, method="gda", output=tmp_path / "model", **TIMO)
    assert again.was_there
    assert not cafe.train(cache, method="gda", output=tmp_path / "model").was_there


def test_commands_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_cache(tmp_path, 5).path
    common = ("--shots", "2", "--seeds", "1", "--runs", tmp_path / "runs", "--json")
    for command in ("fit", "compare"):
        given = (command, path, "--method", "gda", "--prompts-weighting", "timo", *common)
        found = json.loads(call(monkeypatch, capsys, *given).out)
        assert found["results"][-1]["params"]["prompts_weighting"] == "timo"


def test_refuses_what_cannot_be_meant(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, 1)
    for study in (cafe.fit, cafe.train):
        with pytest.raises(
            InputError, match=r"weighs several prompts of a class, and .* has one a class"
        ):
            study(cache, method="gda", **TIMO)  # type: ignore[operator]
    with pytest.raises(InputError, match="has one a class"):
        cafe.compare(cache, methods=["gda"], runs=None, **TIMO)
    (tmp_path / "five").mkdir()
    cache = make_cache(tmp_path / "five", 5)
    with pytest.raises(InputError, match=r"which .*knn do not; take auto"):
        cafe.fit(cache, method="knn", runs=None, **TIMO)
    with pytest.raises(InputError, match="must be 'timo'; got 'tomi'"):
        cafe.fit(cache, method="gda", runs=None, prompts_weighting="tomi")
