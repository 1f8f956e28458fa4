"""Text features of classes and class names, in the files that people keep beside image features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.prompts import fill
from cafe.errors import CacheFormatError, InputError, raise_as
from cafe.extract.importers.arrays import finite, read_array, read_npz
from cafe.store.paths import cache_name

if TYPE_CHECKING:
    from cafe.encoders.encoder import Encoder


@dataclass(frozen=True)
class TextFeatures:
    """Text features of classes.

    Attributes
    ----------
    name : str
        Where they come from, for messages.
    features : ndarray
        As they are in the file. (C, P, D), (C, D) or (D, C)
    class_names : tuple of str
        Empty if the file has none. (C,)
    sentences : tuple of tuple of str
        Empty if the file has none. (C, P)
    logit_scale, logit_bias : float or None
        The encoder's; None if the file has none.
    """

    name: str
    features: NDArray[Any]
    class_names: tuple[str, ...] = ()
    sentences: tuple[tuple[str, ...], ...] = ()
    logit_scale: float | None = None
    logit_bias: float | None = None

    def oriented(self, width: int) -> NDArray[np.float32]:
        """The features with the axes in cafe's order. (C, P, D)

        Raises
        ------
        CacheFormatError
            If no axis is as wide as the image features, or a number is not finite.
        """
        text = self.features
        if text.dtype.kind != "f" or text.ndim not in (2, 3) or not text.size:
            raise CacheFormatError(
                f"{self.name} must be floats (C, P, {width}) or (C, {width}); found {text.dtype} "
                f"{text.shape}."
            )
        if text.ndim == 2 and text.shape[1] != width and text.shape[0] == width:
            text = text.T  # Tip-Adapter keeps one column per class
        if text.shape[-1] != width:
            raise CacheFormatError(
                f"{self.name} {self.features.shape} must be as wide as the image features, "
                f"(C, P, {width}) or (C, {width}); give those of the same encoder."
            )
        prompts = text[:, None] if text.ndim == 2 else text  # (C, P, D)
        return finite(self.name, prompts).astype(np.float32)


def read_text_features(file: Path) -> TextFeatures:
    """Read text features from an npz, npy or pt file.

    Raises
    ------
    InputError
        If there is no such file, or it has another suffix.
    CacheFormatError
        If it holds no array of numbers.
    """
    if file.suffix == ".npz":
        return text_of_npz(file, read_npz(file, ("text_prompts", "class_names", "logit_scale")))
    return TextFeatures(f"'{file}'", read_array(file))


def text_of_npz(file: Path, arrays: dict[str, NDArray[Any]]) -> TextFeatures:
    """The text features in an npz file, with class names and scale if it has them."""
    if "text_prompts" not in arrays:
        raise CacheFormatError(f"'{file}' has no text_prompts; found {', '.join(sorted(arrays))}.")
    names, scale = arrays.get("class_names", np.empty(0, str)), arrays.get("logit_scale")
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise CacheFormatError(
            f"'{file}': class_names must be text (C,); found {names.dtype} {names.shape}."
        )
    if scale is not None and (scale.size != 1 or scale.dtype.kind not in "fiu"):
        raise CacheFormatError(
            f"'{file}': logit_scale must be one number; found {scale.shape} {scale.dtype}."
        )
    return TextFeatures(
        f"'{file}': text_prompts",
        arrays["text_prompts"],
        tuple(map(str, names.tolist())),
        logit_scale=None if scale is None else float(scale.item()),
    )


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read class names: a JSON list, or one per line.

    Raises
    ------
    InputError
        If there is no such file, or it holds no names.
    """
    with raise_as(InputError, f"cannot read class names from '{file}'"):
        content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text) if file.suffix == ".json" else lines
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        names = None
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(
            f"'{file}' is no list of class names; give one per line, or as JSON "
            '["cat", "dog", ...].'
        )
    return tuple(names)


def encode_classes(
    encoder: Encoder, class_names: Sequence[str], templates: Sequence[str]
) -> TextFeatures:
    """Compute the text features of classes with the encoder that made the image features.

    Parameters
    ----------
    encoder : Encoder
    class_names : sequence of str
        (C,)
    templates : sequence of str
        Prompts with `{}` for the class name. (P,)
    """
    sentences = fill(class_names, templates)  # (C, P)
    features = encoder.encode_text([sentence for row in sentences for sentence in row])
    return TextFeatures(
        f"the text of {encoder.model} '{encoder.pretrained}'",
        features.numpy().reshape(len(sentences), -1, encoder.width),  # (C, P, D)
        tuple(class_names),
        tuple(map(tuple, sentences)),
        encoder.logit_scale,
        encoder.logit_bias,
    )


def encode_for_cache(
    path: Path, class_names: Sequence[str], templates: Sequence[str] | None
) -> TextFeatures:
    """Compute the text features of classes with the encoder that a cache file is named after.

    Parameters
    ----------
    path : Path
        `<home>/<dataset>/<model>.<pretrained>.h5`.
    class_names : sequence of str
        (C,)
    templates : sequence of str, optional
        Prompts with `{}` for the class name; None takes the dataset's. (P,)
    """
    from cafe.datasets.prompts import TEMPLATE_SETS, check_templates, templates_for
    from cafe.encoders.encoder import load_encoder

    dataset, _, encoder = cache_name(path).partition("/")
    model, _, pretrained = encoder.partition(".")
    known = templates_for(dataset if dataset in TEMPLATE_SETS else "default")
    prompts = check_templates(templates) if templates else known
    return encode_classes(load_encoder(model, pretrained), class_names, prompts)
