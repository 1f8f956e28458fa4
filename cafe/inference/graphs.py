"""Heads, and encoders with heads, as graphs that run without cafe: ONNX and torch.export."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cafe.compat import quiet_libraries
from cafe.errors import CafeError
from cafe.results.saved_head import SavedHead

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 1 << 30
"""Bytes of weights that go inside an ONNX file; the format ends at 2 GB, more lie in a second."""


Answer = tuple[Tensor, ...]
"""Probabilities (N, C), and scores (N, C) where the head has them; see `SavedHead.scores`."""


class HeadGraph(nn.Module):
    """`softmax(head(features) / T)`: raw features (N, D) to probabilities (N, C).

    Where the head has scores, `sigmoid(head(features))` is a second output.
    """

    def __init__(self, saved: SavedHead) -> None:
        super().__init__()
        self._logits = saved.head.graph_logits
        self._temperature = saved.temperature or 1.0
        self._has_scores = saved.has_scores

    def forward(self, features: Tensor) -> Tensor | Answer:
        """Probabilities, or both. (N, C) each"""
        logits = self._logits(features)
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        return (probabilities, torch.sigmoid(logits)) if self._has_scores else probabilities


def answer_of(saved: SavedHead, features: Tensor) -> Answer:
    """What a graph of a head shall give for raw features. (N, C) each"""
    scores = saved.scores(features)
    return (saved.probabilities(features), *([] if scores is None else [scores]))


class WholeGraph(nn.Module):
    """The encoder's image tower, with its normalisation of pixels, before a head.

    Parameters
    ----------
    saved : SavedHead
    network : Module
        open_clip's model, in float32.
    config : mapping
        Its preprocess; `mean` and `std` are used here, the geometry is the caller's.
    tower : Module, optional
        What gives the head its input, where that is more than the image's feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        saved: SavedHead,
        network: Any,
        config: Mapping[str, Any],
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.head = HeadGraph(saved)
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1))
        self.tower = tower or _tower(network, torch.zeros(1, 3, *_pair(config["size"])))

    def forward(self, pixels: Tensor) -> Tensor | Answer:
        """What the head gives for 8-bit RGB (N, 3, S, S), resized and cropped. (N, C) each"""
        answer: Tensor | Answer = self.head(self.tower((pixels.float() - self.mean) / self.std))
        return answer


class _Images(nn.Module):
    """An encoder whose image tower does not give the feature by itself (CoCa)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        feature: Tensor = self.network.encode_image(x)
        return feature


@torch.no_grad()
def _tower(network: Any, example: Tensor) -> nn.Module:
    """The part of an encoder that images need; its text tower would double the file."""
    alone, feature = network.visual(example), network.encode_image(example)
    same = isinstance(alone, Tensor) and torch.equal(alone, feature)
    visual: nn.Module = network.visual if same else _Images(network)
    return visual


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def trace(graph: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """A graph as a program for any number of rows."""
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    with quiet_libraries(), torch.no_grad():
        graph.eval()(example)  # a head that keeps what it computed shall keep real numbers
        return torch.export.export(graph, (example,), dynamic_shapes=({0: rows},))


def write_torch(graph: nn.Module, example: Tensor, path: Path, about: Mapping[str, Any]) -> None:
    """Write a graph as PyTorch's own archive, with what is to be known of it inside."""
    program = trace(graph, example)
    with quiet_libraries(), path.open("wb") as stream:
        torch.export.save(program, stream, extra_files={"cafe.json": json.dumps(about)})


def run_torch(path: Path, rows: Tensor) -> Answer:
    """The answer of a written archive."""
    with quiet_libraries(), path.open("rb") as stream:
        found: Tensor | Answer = torch.export.load(stream).module()(rows)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def check_onnx() -> None:
    """Refuse an ONNX export without its packages, before anything is loaded."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CafeError(
            f"ONNX needs {' and '.join(missing)}, which are not installed; "
            "pip install 'cafe-clip[onnx]'."
        )


def write_onnx(
    graph: nn.Module,
    example: Tensor,
    path: Path,
    names: tuple[str, tuple[str, ...]],
    about: Mapping[str, Any],
) -> None:
    """Write a graph as ONNX.

    Parameters
    ----------
    graph : Module
    example : Tensor
        Two rows of input.
    path : Path
    names : tuple
        Of the input, and of the outputs.
    about : mapping
        Goes into the file's metadata under "cafe", the class names under "class_names" too.
    """
    program = trace(graph, example)
    size = sum(t.nbytes for t in [*program.state_dict.values(), *program.constants.values()])
    with quiet_libraries():
        made = torch.onnx.export(
            program,
            input_names=[names[0]],
            output_names=list(names[1]),
            dynamo=True,
            verbose=False,
        )
        if made is None:
            raise CafeError(f"PyTorch {torch.__version__} gave no ONNX graph; update it.")
        made.model.metadata_props["cafe"] = json.dumps(about)
        made.model.metadata_props["class_names"] = json.dumps(about["class_names"])
        made.save(path, external_data=size > _LARGEST)


def run_onnx(path: Path, rows: Tensor) -> Answer:
    """The answer of a written ONNX file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    return tuple(map(torch.from_numpy, found))
