"""`cafe.AdapterClassifier`: the methods as a scikit-learn estimator over features in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn.functional import normalize

from cafe.devices import ProductPrecision, resolve_device
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.catalog import find_method, make_method
from cafe.study.calibration import out_of_fold, settings_in_force
from cafe.study.equal_texts import check_texts
from cafe.study.plan import COMMON_SETTINGS, resolve_settings


@dataclass(repr=False, eq=False)  # scikit-learn prints, compares and copies estimators itself
class AdapterClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A few-shot head as a scikit-learn classifier.

    Every image in `X` is trained on; draws of few shots are scikit-learn's affair here. Without
    text the unit mean of each class's features stands in for it.

    Parameters
    ----------
    method : str
        A name of `cafe methods`.
    ratio : float, "learn" or None
        Weight of the adapted features; None takes the method's own, as for all that follow.
    bottleneck : int, str or None
        Hidden width: a number, or a part of the feature width ("D/4").
    lr, weight_decay : float or None
        Of the method's optimiser.
    epochs, batch_size : int or None
        Of the method's optimiser.
    settings : dict or None
        Other hyper-parameters of the method by name.
    text_features : array or None
        Raw text features of the classes, (C, D) or (C, P, D) for P prompts a class. None takes
        class means.
    class_names : sequence or None
        Which label each row of `text_features` is for; labels of `y` must be among them, and all of
        them can be predicted. None: the sorted labels of `y`.
    logit_scale : float
        Factor on cosines (100 for OpenAI's CLIP).
    logit_bias : float
        Constant on the logits (SigLIP).
    validation : {"none", "cv"}
        Whether hyper-parameters with several candidates are chosen by cross-validation inside `X`.
    calibrate : bool
        Fit a temperature for `predict_proba` on out-of-fold predictions; it costs up to four more
        fits.
    random_state : int, RandomState or None
        Seed of weights and batch order; None draws one.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : {"auto", "fp32", "bf16"}
        Of the matrix products; "auto" takes bf16 where this CPU is faster at it.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted: the columns of `predict_proba`. (C,)
    n_features_in_ : int
        D.
    head_ : Head
        The fitted head.
    params_ : dict
        The hyper-parameters in force.
    temperature_ : float
        What the logits are divided by; 1 where nothing was calibrated.

    Examples
    --------
    >>> task = cafe.load_task(cafe.FeatureCache.open("cache/digits/nano.glyphs.h5"))
    >>> train, test = task.splits["train"], task.splits["test"]
    >>> classifier = cafe.AdapterClassifier(ratio=0.2, text_features=task.text.features)
    >>> classifier.fit(train.x, train.y).score(test.x, test.y) > 0.8
    True
    """

    method: str = "clip-adapter"
    _: KW_ONLY
    ratio: float | str | None = None
    bottleneck: int | str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    settings: Mapping[str, Any] | None = None
    text_features: ArrayLike | None = None
    class_names: ArrayLike | None = None
    logit_scale: float = 100.0
    logit_bias: float = 0.0
    validation: Literal["none", "cv"] = "none"
    calibrate: bool = False
    random_state: Any = 0
    device: str = "cpu"
    precision: ProductPrecision = "auto"

    def fit(self, X: ArrayLike, y: ArrayLike) -> AdapterClassifier:  # noqa: N803
        """Fit the head.

        Parameters
        ----------
        X : array
            Raw image features. (N, D)
        y : array
            Labels of any kind. (N,)

        Returns
        -------
        AdapterClassifier
            This one.

        Raises
        ------
        ValueError
            If the arrays or the settings cannot be meant; a `CafeError` where cafe finds it.
        """
        if self.validation not in ("none", "cv"):
            raise InputError(f"validation must be 'none' or 'cv'; got '{self.validation}'.")
        x, labels = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(labels)
        self.classes_, order = self._classes(labels)
        y_index = torch.from_numpy(np.searchsorted(self.classes_, labels))
        features = Features(torch.from_numpy(np.array(x, np.float32)), y_index)
        text = self._text(features, order)
        settings, seed = self._settings(x.shape[1]), self._seed()
        if self.text_features is not None:
            check_texts(text, [self.method], settings, "text_features")
        context = Context(resolve_device(self.device), self.precision)
        self.head_ = make_method(self.method, context, settings).fit(
            TrainingSet(features, text).to(context.device),
            validation=Validation(self.validation),
            seed=seed,
        )
        self.params_ = dict(self.head_.params)
        self.temperature_ = 1.0
        if self.calibrate:
            chosen = settings_in_force(self.method, settings, self.params_)
            fitted = out_of_fold(self.method, chosen, features, text, seed=seed, context=context)
            self.temperature_ = fitted.temperature or 1.0
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities of the classes, in the order of `classes_`. (N, C)"""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        logits = torch.from_numpy(self.head_(rows)).double()  # (N, C)
        p: NDArray[np.float64] = torch.softmax(logits / self.temperature_, dim=-1).numpy()
        return p

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The likeliest label of each row. (N,)"""
        columns = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[columns]
        return labels

    def _classes(self, y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """The sorted labels, and which row of the text each of them has."""
        seen = np.unique(y)
        named = seen if self.class_names is None else np.asarray(self.class_names)
        classes, order = np.unique(named, return_index=True)
        if len(classes) < len(named):
            raise InputError(
                "class_names has a label twice; give each once, and where several classes have one "
                "name, numbers for labels."
            )
        unknown = np.setdiff1d(seen, classes)
        if len(unknown):
            raise InputError(f"y has labels that are not in class_names: {unknown[:3].tolist()}.")
        if len(classes) < 2:
            raise InputError(f"a classifier needs at least 2 classes; y has {len(classes)} class.")
        return classes, order

    def _text(self, features: Features, order: NDArray[np.intp]) -> ClassText:
        names = tuple(map(str, self.classes_))
        if self.text_features is None:
            sums = torch.zeros(len(names), features.x.shape[1])  # (C, D)
            sums.index_add_(0, features.y, features.unit)
            text = normalize(sums, dim=-1)[:, None]  # (C, 1, D)
        else:
            if self.class_names is None:
                _refuse_two_orders(self.classes_.tolist())
            text = torch.from_numpy(np.asarray(self.text_features, np.float32).copy())
            text = text[:, None] if text.ndim == 2 else text
        shape, count, width = tuple(text.shape), len(names), features.x.shape[1]
        if len(shape) != 3 or (shape[0], shape[2]) != (count, width):
            raise InputError(
                f"text_features must be ({count}, {width}) or ({count}, P, {width}), one row per "
                f"class; got {shape}. Say which label each row is for with class_names."
            )
        return ClassText(text[order], names, float(self.logit_scale), float(self.logit_bias))

    def _settings(self, width: int) -> dict[str, Any]:
        common = [getattr(self, name) for name in COMMON_SETTINGS]
        settings = resolve_settings([self.method], common, self.settings or {})
        if width < 4 and "bottleneck" in find_method(self.method).settings():
            settings.setdefault("bottleneck", 1)  # D/4, the methods' own, would be nothing
        return settings

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _refuse_two_orders(labels: list[Any]) -> None:
    """Refuse sorted labels whose order people may take for another: 10 before 2 in text."""
    words = [label for label in labels if isinstance(label, str) and label.isdecimal()]
    counted = sorted(words, key=int)
    if len(words) == len(labels) and words != counted:
        raise InputError(
            f"rows of text_features may be in the order of text ({', '.join(words[:3])}) or of "
            f"numbers ({', '.join(counted[:3])}); say which label each is for with class_names."
        )
