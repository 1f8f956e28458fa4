"""One fitted head in one safetensors file, with all that is needed to use it; knows no run folder.

The file's tensors are the head's own, and `zero_shot.weights`, the classes' text, so that the
zero-shot answer can stand beside the head's. Its metadata holds one JSON text under "cafe".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cafe.errors import InputError
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.head import Head, predict_in_blocks
from cafe.methods.zero_shot import ZeroShot, ZeroShotHead

_ZERO_SHOT = "zero_shot."


@dataclass(frozen=True)
class SavedHead:
    """A head read back, with what its file says of it.

    Attributes
    ----------
    head : Head
    about : mapping
        `method`, `params`, `class_names`, `dataset`, `encoder`, `cache_key`; and, of runs since
        these are kept, `cache`, `shots`, `seed`, `accuracy` (percent on the test images),
        `baselines`, `calibration`, `protocol`, `command`, `created` and `versions`.
    zero_shot : ZeroShotHead or None
        Zero-shot CLIP on the same classes.

    Examples
    --------
    >>> saved = cafe.load_head("runs/mine/clip-adapter.4shot.seed0.safetensors")
    >>> saved.class_names[:3]
    ('zero', 'one', 'two')
    >>> saved.probabilities(torch.zeros(5, 512)).shape
    torch.Size([5, 10])
    """

    head: Head
    about: Mapping[str, Any]
    zero_shot: ZeroShotHead | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits. (C,)"""
        return tuple(self.about["class_names"])

    @property
    def temperature(self) -> float | None:
        """What the logits are divided by; None where the head is not calibrated."""
        temperature: float | None = self.about.get("calibration", {}).get("temperature")
        return temperature

    @property
    def pool(self) -> int | None:
        """Largest side of the spatial maps that the head takes; None for heads without."""
        return max(self.about["cache_key"]["spatial"]["grid"]) if self.head.spatial else None

    @property
    def has_scores(self) -> bool:
        """Whether the encoder has a logit bias (SigLIP), and the head keeps to its logits."""
        biased = self.zero_shot is not None and bool(self.zero_shot.logit_scale_bias[1])
        return biased and self.head.cosine_logits

    def probabilities(self, x: Tensor) -> Tensor:
        """Calibrated probabilities of raw image features, as `Head.logits` takes them. (N, C)"""
        return torch.softmax(predict_in_blocks(self.head, x) / (self.temperature or 1.0), dim=-1)

    def scores(self, x: Tensor) -> Tensor | None:
        """How probable each class is by itself, `sigmoid(logits)`; None without `has_scores`.

        Each class is judged alone, so that they need not sum to 1 and all may be low; see
        `Head.cosine_logits`. They are not calibrated.

        Parameters
        ----------
        x : Tensor
            Raw image features, as `Head.logits` takes them.

        Returns
        -------
        Tensor or None
            (N, C)
        """
        return torch.sigmoid(predict_in_blocks(self.head, x)) if self.has_scores else None


def output_names(saved: SavedHead) -> tuple[str, ...]:
    """What an exported head gives, in order."""
    return ("probabilities", "scores") if saved.has_scores else ("probabilities",)


def save_head(
    path: Path, head: Head, about: Mapping[str, Any], zero_shot: Head | None = None
) -> None:
    """Save a head.

    Parameters
    ----------
    path : Path
    head : Head
    about : mapping
        What is to be known of it beside method and params; JSON values.
    zero_shot : Head, optional
        Zero-shot CLIP on the same classes.
    """
    text = {} if zero_shot is None else zero_shot.tensors()
    tensors = {**head.tensors(), **{f"{_ZERO_SHOT}{name}": value for name, value in text.items()}}
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    metadata = {"method": head.method, "params": dict(head.params), **about}
    # not save_file: it lets nobody but the owner read the file
    path.write_bytes(save(copies, metadata={"cafe": json.dumps(metadata)}))


def load_head(path: Path | str) -> SavedHead:
    """Read a saved head.

    Parameters
    ----------
    path : Path or str
        A safetensors file of a run; no code in it is run.

    Raises
    ------
    InputError
        If it is no saved head.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["cafe"])
        tensors = load_file(path)
        own = {name: t for name, t in tensors.items() if not name.startswith(_ZERO_SHOT)}
        text = {name.removeprefix(_ZERO_SHOT): tensors[name] for name in tensors.keys() - own}
        head = find_method(about["method"]).make_head(own, about["params"])
        zero_shot = ZeroShotHead(**text, params={}, method=ZeroShot.name) if text else None
    except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"'{path}' is not a head that cafe saved ({error}); known methods are "
            f"{', '.join(CATALOG)}."
        ) from error
    return SavedHead(head, about, zero_shot)
