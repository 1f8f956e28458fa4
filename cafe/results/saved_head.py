"""One fitted head in one safetensors file, with all that is needed to use it; knows no run folder.

The file's tensors are the head's own, and `zero_shot.weights`, the classes' text, so that the
zero-shot answer can stand beside the head's. Its metadata holds one JSON text under "cafe".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.errors import CafeError, InputError, one_line
from cafe.features.pool import INDUCTIVE
from cafe.methods.catalog import find_method
from cafe.methods.head import Head, Numbers, in_kind
from cafe.methods.several_encoders import ENCODERS, JoinedHead
from cafe.methods.tensor_file import FAULTS, pack, read_about, read_tensors
from cafe.methods.zero_shot import ZeroShot, ZeroShotHead
from cafe.results.head_metadata import HeadMetadata
from cafe.results.typed_json import check_json
from cafe.store.repr_mixin import ReprMixin, name_some

_ZERO_SHOT = "zero_shot."


@dataclass(frozen=True, repr=False)
class SavedHead(ReprMixin):
    """A head read back, with what its file says of it.

    Attributes
    ----------
    head : Head
    about : mapping
        `method`, `params`, `class_names`, `dataset`, `encoder`, `cache_key`; and, of runs since
        these are kept, `cache`, `shots`, `seed`, `accuracy` (percent on the test images),
        `baselines`, `calibration`, `learning`, `protocol`, `command`, `created` and `versions`.
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

    def cpu(self) -> SavedHead:
        """The same with its tensors on the CPU, where an encoder's features are."""
        if self.head.device.type == "cpu":
            return self
        tensors = {name: tensor.cpu() for name, tensor in self.head.tensors().items()}
        head, text = _head_of(self.head.method, tensors, self.head.params), self.zero_shot
        if text is not None:
            own: dict[str, Any] = {name: tensor.cpu() for name, tensor in text.tensors().items()}
            text = replace(text, **own)
        return SavedHead(head, self.about, text)

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
    def width(self) -> int | None:
        """Width of the features that it takes; None where an older cafe saved it without."""
        known: int | None = self.about.get("width")
        return known if self.zero_shot is None else int(self.zero_shot.weights.shape[-1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the head takes of one image: (D,), or (1 + T, D), or (E,); see `Head.logits`."""
        if self.head.pre_projection:
            return (len(self.head.tensors()["projection"]),)
        width = self.width or 0
        return (1 + self.head.params["tokens"], width) if self.head.spatial else (width,)

    @property
    def pool(self) -> int | None:
        """Largest side of the spatial maps that the head takes; None for heads without."""
        return max(self.about["cache_key"]["spatial"]["grid"]) if self.head.spatial else None

    @property
    def has_scores(self) -> bool:
        """Whether each class has a score of its own.

        It has where the head was fitted by a sigmoid loss, or the encoder has a logit bias (SigLIP)
        and the head keeps to its logits.
        """
        biased = self.zero_shot is not None and bool(self.zero_shot.logit_scale_bias[1])
        return self.head.own_scores or (biased and self.head.cosine_logits)

    def probabilities(self, x: Numbers) -> Numbers:
        """Calibrated probabilities of the classes.

        Parameters
        ----------
        x : Tensor or ndarray
            Raw image features, as `Head.logits` takes them. (N, D)

        Returns
        -------
        Tensor or ndarray
            As x is. (N, C)

        Raises
        ------
        InputError
            If x has another shape.
        """
        self._check(x)
        return in_kind(
            lambda x: torch.softmax(self.head(x) / (self.temperature or 1.0), -1), x, self.head
        )

    def scores(self, x: Numbers) -> Numbers | None:
        """How probable each class is by itself, `sigmoid(logits)`; None without `has_scores`.

        Each class is judged alone, so that they need not sum to 1 and all may be low; see
        `Head.own_scores` and `Head.cosine_logits`. They are not calibrated.

        Parameters
        ----------
        x : Tensor or ndarray
            Raw image features, as `Head.logits` takes them.

        Returns
        -------
        Tensor or ndarray, as x is, or None
            (N, C)
        """
        self._check(x)
        if not self.has_scores:
            return None
        return in_kind(lambda x: torch.sigmoid(self.head(x)), x, self.head)

    def _title(self) -> str:
        shots, seed = (self.about.get(name, "?") for name in ("shots", "seed"))
        return f"SavedHead of {self.head.method}, {shots} shots, seed {seed}"

    def _rows(self) -> list[list[str]]:
        about, names = self.about, self.about["encoder"]
        accuracy = f"{about['accuracy']:.2f} % of test images" if "accuracy" in about else "unknown"
        return [
            ["dataset", about["dataset"]],
            ["encoder", f"{names['model']}.{names['pretrained']}"],
            ["classes", name_some(self.class_names)],
            ["accuracy", accuracy],
            ["learning", str(about.get("learning", INDUCTIVE))],
            ["temperature", f"{self.temperature:.3g}" if self.temperature else "not calibrated"],
        ]

    def _check(self, x: Tensor | NDArray[Any]) -> None:
        """Refuse features that the head cannot take."""
        shape = ("N", "1 + T") if self.head.spatial else ("N",)
        width = self.input_shape[-1] or x.shape[-1]
        if x.ndim != len(shape) + 1 or x.shape[-1] != width:
            raise InputError(
                f"features must be ({', '.join(shape)}, {width}), as the encoder gives them; got "
                f"{tuple(x.shape)}."
            )


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
    metadata = {"method": head.method, "params": dict(head.params), **about}
    # not save_file: it lets nobody but the owner read the file
    path.write_bytes(pack(tensors, "cafe", metadata))


def load_head(path: Path | str) -> SavedHead:
    """Read a saved head.

    Parameters
    ----------
    path : Path or str
        A safetensors file of a run; no code in it is run.

    Raises
    ------
    InputError
        If it is no saved head, is damaged, or its tensors do not fit its classes.
    """
    if not Path(path).is_file():  # a pipe would be waited for
        raise InputError(f"no head '{path}'; 'cafe fit' saves one for every method, shot and seed.")
    try:
        about = read_about(path, "cafe")
        check_json(HeadMetadata, about, Path(path))
        tensors = read_tensors(path, about)
        own = {name: t for name, t in tensors.items() if not name.startswith(_ZERO_SHOT)}
        text = {name.removeprefix(_ZERO_SHOT): tensors[name] for name in tensors.keys() - own}
        head = _head_of(about["method"], own, about["params"])
        zero_shot = ZeroShotHead(**text, params={}, method=ZeroShot.name) if text else None
        saved = SavedHead(head, about, zero_shot)
        _try_out(saved)
    except CafeError:
        raise
    except FAULTS as error:
        raise InputError(
            f"'{path}' is not a head that cafe saved ({one_line(error)}); name a model's or run's "
            "folder, or a .safetensors file in it."
        ) from error
    return saved


def _head_of(method: str, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Head:
    if ENCODERS in params:
        return JoinedHead.of_tensors(tensors, params, method)
    return find_method(method).make_head(tensors, params)


def _try_out(saved: SavedHead) -> None:
    """Ask the head about one image, so that tensors that do not belong together are found now."""
    width = saved.width
    if width is None:
        return  # an older cafe saved it, and nothing tells how wide a feature is
    image = torch.ones(1, width)
    own = torch.ones(1, *saved.input_shape) if saved.head.pre_projection else image
    if saved.pool:
        own = image[:, None].expand(1, 2, width)  # with a map of one
    shape = (1, len(saved.class_names))
    text = [] if saved.zero_shot is None else [saved.zero_shot.logits(image)]
    for values in (saved.head.logits(own), *text):
        if tuple(values.shape) != shape or not torch.isfinite(values).all():
            raise ValueError(f"it answers with {tuple(values.shape)} logits for {shape[1]} classes")
