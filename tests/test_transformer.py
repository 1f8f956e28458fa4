"""CLIPFeatures keeps scikit-learn's rules and gives what the extractor gives."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from making import draw_image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import validate_data

import cafe
from cafe.errors import CafeError, ImageError, InputError
from cafe.extract import transformer

IMAGES = [draw_image(seed) for seed in range(8)]
LABELS = ["even", "odd"] * 4


class RowsAsImages(cafe.CLIPFeatures):
    """The checks have rows of numbers: here each is a grey image of one line."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags

    def _more(self, X: Any, reset: bool) -> Any:  # noqa: N803
        rows = validate_data(self, X, reset=reset)
        return (255 / (1 + np.exp(-rows))).astype(np.uint8)[:, None]  # (N, 1, M)

    def fit(self, X: Any, y: Any = None) -> Any:  # noqa: N803
        return super().fit(self._more(X, reset=True), y)

    def transform(self, X: Any) -> Any:  # noqa: N803
        return super().transform(self._more(X, reset=False))


FLOAT32 = "features are float32 throughout cafe: a product of other rows differs in its last bits"


@parametrize_with_checks(
    [RowsAsImages("nano", device="cpu", precision="fp32")],
    expected_failed_checks=lambda _: {"check_methods_subset_invariance": FLOAT32},
)
@pytest.mark.filterwarnings("ignore")  # the checks warn on purpose
def test_scikit_learns_rules(estimator: Any, check: Any) -> None:
    check(estimator)


def test_its_tags_are_true() -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator CLIPFeatures"):
        check_estimator(cafe.CLIPFeatures("nano"))


def test_it_is_the_extractor_in_a_pipeline(tmp_path: Path) -> None:
    features = cafe.CLIPFeatures("nano", device="cpu", precision="fp32")
    expected = cafe.Extractor("nano", device="cpu", precision="fp32").encode(IMAGES)
    np.testing.assert_array_equal(features.fit_transform(IMAGES), expected)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for image, path in zip(IMAGES, paths, strict=True):
        image.save(path)
    table = pd.DataFrame({"path": list(map(str, paths)), "size": range(8)})
    of_table = ColumnTransformer([("image", features, ["path"]), ("rest", "passthrough", ["size"])])
    for found in (
        features.transform(paths),
        features.transform(table["path"]),
        of_table.fit_transform(table)[:, :-1],
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    pipeline = make_pipeline(features, cafe.AdapterClassifier(epochs=2))
    assert list(pipeline.fit(paths, LABELS).classes_) == ["even", "odd"]
    assert pipeline.predict_proba(IMAGES).shape == (8, 2)
    assert cross_val_score(pipeline, np.array(paths), LABELS, cv=2).shape == (2,)


def test_copies_and_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = transformer.load_encoder
    monkeypatch.setattr(
        transformer, "load_encoder", lambda *a, **k: [loads.append(a[0]), load(*a, **k)][1]
    )
    transformer._load.cache_clear()
    features = cafe.CLIPFeatures("nano", device="cpu", batch_size=3).fit(IMAGES)
    expected = features.transform(IMAGES)
    assert (
        clone(features).get_params()
        == features.get_params()
        == {
            "model": "nano",
            "pretrained": None,
            "device": "cpu",
            "precision": "auto",
            "decode": "auto",
            "batch_size": 3,
            "workers": None,
        }
    )
    packed = pickle.dumps(features)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).transform(IMAGES), expected)  # noqa: S301
    pipeline = make_pipeline(clone(features), cafe.AdapterClassifier(epochs=2))
    images = np.stack([np.asarray(image) for image in IMAGES])
    search = GridSearchCV(pipeline, {"clipfeatures__batch_size": [2, 4]}, cv=2, error_score="raise")
    search.fit(images, LABELS)
    assert loads == ["nano"]  # once for all of them


def test_names_of_the_features() -> None:
    features = cafe.CLIPFeatures("nano", device="cpu")
    names = features.get_feature_names_out()
    assert (names[0], names[-1], len(names)) == ("clipfeatures0", "clipfeatures511", 512)
    table = features.set_output(transform="pandas").fit_transform(IMAGES[:2])
    assert list(table.columns) == list(names)


def test_the_first_axis_counts_images() -> None:
    features = cafe.CLIPFeatures("nano", device="cpu").fit(IMAGES)
    grey = np.stack([np.asarray(image.convert("L")) for image in IMAGES[:3]])
    assert features.transform(grey).shape == (3, 512)
    assert features.transform(grey[:, :, :3]).shape == (3, 512)
    assert features.transform(torch.from_numpy(grey)).shape == (3, 512)
    with pytest.raises(ImageError, match="image 1"):
        features.transform([IMAGES[0], np.zeros(5)])


@pytest.mark.parametrize(
    ("X", "text"),
    [
        ("photos", "one image or folder"),
        (Path("photos"), "one image or folder"),
        (IMAGES[0], "one image or folder"),
        (np.zeros((4, 9)), r"X of shape \(4, 9\) has rows of numbers"),
        (np.zeros(4), "has rows of numbers"),
        (torch.zeros(4, 9), "4 rows and 1 images"),
        ([], "no image is there"),
        ([1, 2], "is of type int"),
        (pd.DataFrame({"a": ["1.png"], "b": ["2.png"]}), "give one column"),
        (["."], "1 rows and"),
    ],
)
def test_what_has_no_image_in_a_row(
    X: Any,  # noqa: N803
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(2):
        IMAGES[0].save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CafeError, match=text):
        cafe.CLIPFeatures("nano", device="cpu").fit(X)


def test_unknown_encoders_are_refused_by_fit() -> None:
    with pytest.raises(InputError, match="did you mean"):
        cafe.CLIPFeatures("ViT-B-31").fit(IMAGES)
