"""Meta-Adapter's network (Song et al. 2023, arXiv 2311.03774), and the file of its weights.

The file is in safetensors format and says what the weights were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import linear_weights
from cafe.errors import CafeError, InputError, counted, one_line
from cafe.methods.tensor_file import FAULTS, pack, read_about, read_tensors
from cafe.store.files import digest_of_file, write_file

GATE_START = 1.0
"""Where the gate's bias starts in the authors' code (ArsenalCheng/Meta-Adapter): sigmoid 0.73."""


@dataclass(frozen=True)
class MetaWeights:
    """One attention head without a value projection, and a gate; `2 D^2 + D + 1` numbers.

    A class's text t asks itself and its shots `k_1 ... k_K`::

        a = softmax((Wq t) (Wk [t, k_1, ..., k_K])^T / sqrt(D)) [t, k_1, ..., k_K]
        w = norm(t + sigmoid(g t + b) a)

    so that the number of shots is free, their order is nothing, and a class without one keeps its
    text.

    Attributes
    ----------
    query, key : Tensor
        Wq and Wk. (D, D)
    gate : Tensor
        g. (D,)
    bias : Tensor
        b. ()
    """

    query: Tensor
    key: Tensor
    gate: Tensor
    bias: Tensor

    @classmethod
    def initial(cls, width: int, seed: int) -> MetaWeights:
        """Untrained weights: Xavier-uniform projections and gate, as in the authors' code.

        Parameters
        ----------
        width : int
            D.
        seed : int
            Seed of the draw.
        """
        query, key, gate = linear_weights(seed, (width, width), (width, width), (1, width))
        # Xavier's bound is sqrt(6 / (in + out)), that of `linear_weights` is sqrt(1 / in).
        square, single = math.sqrt(3), math.sqrt(6 * width / (width + 1))
        return cls(square * query, square * key, single * gate[0], torch.tensor(GATE_START))

    @property
    def width(self) -> int:
        """D."""
        return len(self.gate)

    def adapt(self, text: Tensor, shots: Tensor, filled: Tensor | None = None) -> Tensor:
        """Class weights of texts and their shots.

        Parameters
        ----------
        text : Tensor
            Unit text features t. (..., D)
        shots : Tensor
            Unit features k of each text's shots. (..., K, D)
        filled : Tensor or None
            Which shots there are; None is all. (..., K)

        Returns
        -------
        Tensor
            Unit class weights w. (..., D)
        """
        seen = torch.cat([text[..., None, :], shots], dim=-2)  # (..., K + 1, D)
        query = text @ self.query.mT @ self.key  # (..., D): one product a text, not one a shot
        scores = (seen @ query[..., None]).squeeze(-1) / math.sqrt(self.width)  # (..., K + 1)
        if filled is not None:
            there = torch.cat([torch.ones_like(filled[..., :1]), filled], dim=-1)
            scores = scores.masked_fill(~there, -torch.inf)
        attention = (scores.softmax(dim=-1)[..., None, :] @ seen).squeeze(-2)  # (..., D)
        gate = torch.sigmoid(text @ self.gate + self.bias)  # (...)
        return normalize(text + gate[..., None] * attention, dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, as the constructor takes them."""
        return dict(vars(self))

    def to(self, device: torch.device) -> MetaWeights:
        """The same weights on another device."""
        return MetaWeights(**{name: value.to(device) for name, value in self.tensors().items()})


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
        caches = self.about["caches"]
        counts = (counted(len(cache["class_names"]), "class") for cache in caches)
        return [
            f"{cache['dataset']} ({count})" for cache, count in zip(caches, counts, strict=True)
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

    `about` says in JSON values what they were trained on and how; see `MetaFile`.

    Raises
    ------
    CafeError
        If the file cannot be written; nothing is left behind.
    """
    try:
        with write_file(path) as stream:
            stream.write(pack(weights.tensors(), "cafe_meta", {"format": FORMAT, **about}))
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
        about = read_about(path, "cafe_meta")
        _check_about(about)
        tensors = read_tensors(path, about)
        _check_forms(tensors)
        weights = MetaWeights(**tensors)
    except FAULTS as error:
        raise InputError(
            f"'{path}' is no file of 'cafe meta-train' ({one_line(error)}); make one with "
            "'cafe meta-train CACHE -o FILE'."
        ) from error
    return MetaFile(path, digest_of_file(path), weights, about)


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


def _check_forms(tensors: Mapping[str, Tensor]) -> None:
    """Names, types and shapes."""
    if tensors.keys() != _HELD.keys():
        raise ValueError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}"[:200])
    width = tensors["gate"].numel()
    for name, axes in _HELD.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or list(tensor.shape) != [width] * axes or not width:
            raise ValueError(f"its {name} is {tensor.dtype} {list(tensor.shape)}")
