"""AdapterClassifier keeps scikit-learn's rules and gives what the methods give."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import cafe
from cafe.errors import CafeError
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.study.classifier import AdapterClassifier

NAMES = np.array(["wren", "auk", "owl", "kite", "Ölammer"])
TRAIN, TEST = draw_task((6,) * CLASSES), draw_images()
X, Y = TRAIN.features.x.numpy(), NAMES[TRAIN.features.y.numpy()]
TEXT = TRAIN.text.features.numpy()
FLOAT32 = "features are float32 throughout cafe: a product of other rows differs in its last bits"


@parametrize_with_checks(
    [AdapterClassifier(epochs=20)],
    expected_failed_checks=lambda _: {"check_methods_subset_invariance": FLOAT32},
)
@pytest.mark.filterwarnings("ignore")  # the checks warn on purpose
def test_scikit_learns_rules(estimator: Any, check: Any) -> None:
    check(estimator)


def with_text(**more: Any) -> AdapterClassifier:
    values = {"text_features": TEXT, "class_names": NAMES, "logit_scale": 20.0, "epochs": 5}
    return AdapterClassifier(**{**values, **more})


def test_it_is_the_method() -> None:
    fitted = with_text(random_state=3).fit(X, Y)
    method = make_method("clip-adapter", Context(), {"epochs": 5})
    head = method.fit(TRAIN, seed=3)
    expected = torch.softmax(head.logits(TEST.x), -1)[:, np.argsort(NAMES)]
    np.testing.assert_allclose(fitted.predict_proba(TEST.x), expected, atol=1e-4)
    assert list(fitted.classes_) == sorted(NAMES)
    assert fitted.score(TEST.x, NAMES[TEST.y.numpy()]) > 0.5
    assert fitted.params_["epochs"] == 5


@pytest.mark.parametrize("method", ["zero-shot", "nearest-class", "gda", "tip-adapter", "knn"])
def test_other_methods(method: str) -> None:
    fitted = with_text(method=method, epochs=None).fit(X, Y)
    assert fitted.predict_proba(TEST.x).sum(axis=1) == pytest.approx(np.ones(len(TEST)))
    assert fitted.score(TEST.x, NAMES[TEST.y.numpy()]) > 0.5


def test_text_speaks_for_classes_without_images() -> None:
    seen = Y != "owl"
    fitted = with_text().fit(X[seen], Y[seen])
    assert "owl" in fitted.classes_
    assert "owl" in fitted.predict(TEST.x)


def test_search_and_pipelines() -> None:
    search = GridSearchCV(with_text(), {"ratio": [0.2, 0.8], "bottleneck": [4, "D/2"]}, cv=2)
    assert set(search.fit(X, Y).best_params_) == {"ratio", "bottleneck"}
    pipeline = make_pipeline(Normalizer(), AdapterClassifier(epochs=5))
    assert cross_val_score(pipeline, X, TRAIN.features.y.numpy(), cv=2).min() > 0.4


def test_unbalanced_and_any_labels() -> None:
    train = draw_task((1, 2, 9, 3, 5))
    for labels in (train.features.y.numpy() * 10 - 5, train.features.y.numpy() * 0.5 > 0.5):
        fitted = AdapterClassifier(epochs=2).fit(train.features.x, labels)
        assert set(fitted.predict(TEST.x)) <= set(labels)


def test_same_seed_same_answers_and_copies() -> None:
    fitted = with_text().fit(X, Y)
    expected = fitted.predict_proba(TEST.x)
    assert np.array_equal(clone(fitted).fit(X, Y).predict_proba(TEST.x), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(TEST.x), expected)  # noqa: S301
    assert not np.array_equal(with_text(random_state=1).fit(X, Y).predict_proba(TEST.x), expected)


def test_calibration_changes_how_sure_not_what() -> None:
    plain, calibrated = with_text().fit(X, Y), with_text(calibrate=True).fit(X, Y)
    assert np.array_equal(plain.predict(TEST.x), calibrated.predict(TEST.x))
    assert calibrated.temperature_ != 1
    rows = np.arange(len(TEST)), np.searchsorted(plain.classes_, NAMES[TEST.y.numpy()])
    loss = [-np.log(one.predict_proba(TEST.x)[rows]).mean() for one in (plain, calibrated)]
    assert loss[1] < loss[0]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "clip-adaptor"}, "did you mean clip-adapter"),
        ({"method": "zero-shot"}, "zero-shot has no setting 'epochs'"),
        ({"ratio": 2}, "ratio must be from 0"),
        ({"text_features": TEXT[:3]}, "text_features must be"),
        ({"class_names": NAMES[:4], "text_features": TEXT[:4]}, "not in class_names"),
        ({"class_names": NAMES[[0, 0, 1, 2, 3]]}, "twice"),
        ({"validation": "full"}, "'none' or 'cv'"),
        ({"settings": {"alpha": 1}}, "no setting 'alpha'"),
    ],
)
def test_refusals(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(CafeError, match=text):
        with_text(**settings).fit(X, Y)


def test_sparse_features_are_refused() -> None:
    with pytest.raises(TypeError, match="Sparse data"):
        AdapterClassifier().fit(sparse.csr_matrix(X), Y)


def test_it_is_public() -> None:
    assert cafe.AdapterClassifier is AdapterClassifier
