"""The file of meta-trained weights: one safetensors file that says what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save
from torch import Tensor

from cafe.errors import CafeError, InputError
from cafe.files import digest_of_file, write_file
from cafe.methods.meta_adapter.weights import MetaWeights

FORMAT = 1
_HELD = {"query": 2, "key": 2, "gate": 1, "bias": 0}
"""The tensors and how many axes each has, all of them D long."""


@dataclass(frozen=True)
class MetaFile:
    """Meta-trained weights as they lie in a file.

    Attributes
    ----------
    path : Path
    sha256 : str
        Digest of the file.
    weights : MetaWeights
    about : mapping
        `encoder` (model, pretrained, weights_sha256), `caches` (each with dataset, content_sha256,
        class_names and images), `shots`, `seed`, `recipe`, `loss`, `command`, `created`,
        `versions`.
    """

    path: Path
    sha256: str
    weights: MetaWeights
    about: Mapping[str, Any]

    @property
    def encoder(self) -> str:
        """The encoder that it was trained on, by name."""
        return f"{self.about['encoder']['model']}.{self.about['encoder']['pretrained']}"

    @property
    def datasets(self) -> list[str]:
        """The datasets that it was trained on, with how many classes of each."""
        return [
            f"{one['dataset']} ({len(one['class_names'])} classes)" for one in self.about["caches"]
        ]

    def check_width(self, width: int) -> None:
        """Refuse features of another width.

        Raises
        ------
        InputError
            If they are not as wide as those that it was trained on.
        """
        if width != self.weights.width:
            raise InputError(
                f"'{self.path}' was trained on features of width {self.weights.width} "
                f"({self.encoder}); these are {width} wide. Train one on caches of this encoder "
                "with 'cafe meta-train'."
            )


def save_meta(path: Path, weights: MetaWeights, about: Mapping[str, Any]) -> MetaFile:
    """Save weights, in one step: the file is whole or not there.

    Parameters
    ----------
    path : Path
    weights : MetaWeights
    about : mapping
        What they were trained on and how; JSON values.

    Raises
    ------
    CafeError
        If the file cannot be written; nothing is left behind.
    """
    tensors = {name: value.cpu().contiguous() for name, value in weights.tensors().items()}
    told = {"format": FORMAT, **about}
    try:
        with write_file(path) as stream:
            stream.write(save(tensors, metadata={"cafe_meta": json.dumps(told)}))
    except OSError as error:
        raise CafeError(f"cannot write '{path}' ({error.strerror}); choose another -o.") from error
    return load_meta(path)


def load_meta(path: Path | str) -> MetaFile:
    """Read meta-trained weights.

    Parameters
    ----------
    path : Path or str
        A file of `cafe meta-train`; no code in it is run.

    Raises
    ------
    InputError
        If it is none, or holds what such a file does not.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no meta file '{path}'; 'cafe meta-train CACHE -o {path.name}' makes one."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["cafe_meta"])
            _check_about(about)
            _check_forms({name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in _HELD}
        _check_finite(tensors)
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        RecursionError,
        safetensors.SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"'{path}' is no file of 'cafe meta-train' ({reason[:200]}); make one with "
            "'cafe meta-train CACHE -o FILE'."
        ) from error
    return MetaFile(path, digest_of_file(path), MetaWeights.from_tensors(tensors), about)


def _check_about(about: Any) -> None:
    """What is asked of the file later is there and of its type."""
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']!r}, this cafe reads {FORMAT}")
    texts = [about["encoder"]["model"], about["encoder"]["pretrained"]]
    for cache in about["caches"]:
        texts += [cache["dataset"], cache["content_sha256"], *cache["class_names"]]
    if not about["caches"] or not all(isinstance(text, str) for text in texts):
        raise ValueError("it does not say what it was trained on")
    if type(about["shots"]) is not int or about["shots"] < 1:
        raise ValueError("it does not say how many shots it was trained with")


def _check_forms(slices: Mapping[str, Any]) -> None:
    """Names, types and shapes, before any tensor is read: one may be as large as the file."""
    if slices.keys() != _HELD.keys():
        raise ValueError(f"it holds {', '.join(sorted(slices)) or 'nothing'}"[:200])
    width = (slices["gate"].get_shape() or [0])[0]
    for name, axes in _HELD.items():
        kind, shape = slices[name].get_dtype(), slices[name].get_shape()
        if kind != "F32" or shape != [width] * axes or not width:
            raise ValueError(f"its {name} is {kind} {shape}")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"its {name} is not finite")
