"""`cafe.CLIPFeatures`: an encoder as a scikit-learn transformer from images to features."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from cafe.encoders.decoding import check_decode
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.weights import DEFAULT_MODEL
from cafe.errors import InputError
from cafe.extract.encode import LoaderOptions
from cafe.extract.encode_images import encode_all
from cafe.extract.image_sources import Images, ImageSource, list_images


@dataclass(repr=False, eq=False)  # scikit-learn prints, compares and copies estimators itself
class CLIPFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The raw features of images, as a step of a scikit-learn pipeline.

    Nothing is learned from the images. Copies share one encoder, the last that was loaded in the
    process, and a pickle holds none: it is loaded again where it is needed.

    Parameters
    ----------
    model, pretrained : str, optional
        As of `cafe.Extractor`; None is "ViT-B-32" with its own weights.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : str
        "auto", "fp32", "bf16" or "fp16".
    decode : {"auto", "exact", "scaled"}
        As of `cafe.Extractor`; "auto" is "scaled".
    batch_size, workers : int, optional
        Images per forward pass, and threads that decode; None fits them to the machine.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(cafe.CLIPFeatures("nano"), cafe.AdapterClassifier())
    >>> dark, bright = np.zeros((8, 32, 32, 3), np.uint8), np.full((8, 32, 32, 3), 255, np.uint8)
    >>> pipeline.fit([*dark, *bright], ["dark"] * 8 + ["bright"] * 8).predict([dark[0], bright[0]])
    array(['dark', 'bright'], dtype='<U6')
    """

    model: str | None = None
    pretrained: str | None = None
    _: KW_ONLY
    device: str = "auto"
    precision: str = "auto"
    decode: Literal["auto", "exact", "scaled"] = "auto"
    batch_size: int | None = None
    workers: int | None = None

    def fit(self, X: Images, y: Any = None) -> CLIPFeatures:  # noqa: ARG002, N803
        """Load the encoder.

        Parameters
        ----------
        X : sequence of images
            Paths, images of Pillow, arrays and tensors, as `cafe.Extractor.encode` takes them; a
            column of a table; arrays (N, H, W, C) or (N, H, W); tensors (N, C, H, W).
        y : ignored

        Returns
        -------
        CLIPFeatures
            This one.

        Raises
        ------
        InputError
            If a row of X can be no image.
        WeightsError
            If the encoder cannot be loaded.
        """
        _rows(X)
        self._encoder()
        return self

    def transform(self, X: Images) -> NDArray[np.float32]:  # noqa: N803
        """Encode images, a row for each. (N, D) float32

        Raises
        ------
        ImageError
            If an image cannot be read.
        """
        options = LoaderOptions(self.batch_size, self.workers)
        return encode_all(self._encoder(), _rows(X), options)

    def _encoder(self) -> Encoder:
        check_decode(self.decode)
        loaded = _load(self.model or DEFAULT_MODEL, self.pretrained, self.device, self.precision)
        return loaded.decoding("exact" if self.decode == "exact" else "scaled")

    @property
    def _n_features_out(self) -> int:
        return self._encoder().width

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False  # a row of numbers is no image
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # features are float32, whatever images are
        return tags


@lru_cache(maxsize=1)
def _load(model: str, pretrained: str | None, device: str, precision: str) -> Encoder:
    """The encoder, once for all copies: a search makes many."""
    return load_encoder(model, pretrained, device=device, precision=precision)


def _rows(X: Any) -> list[ImageSource]:  # noqa: N803
    """The images of X, one a row.

    Raises
    ------
    InputError
        If it is one image, rows of numbers, or has a folder for a row.
    """
    if isinstance(X, str | os.PathLike | Image):
        raise InputError("X is one image or folder; give a sequence, one image a row.")
    if getattr(getattr(X, "dtype", None), "kind", "O") in "biufc" and X.ndim < 3:
        raise InputError(f"X of shape {X.shape} has rows of numbers; a row must be one image.")
    listed = list_images(list(X) if getattr(X, "ndim", 1) == 3 else X)
    if len(listed) != len(X):
        raise InputError(f"X has {len(X)} rows and {len(listed)} images; a row must be one image.")
    return listed
