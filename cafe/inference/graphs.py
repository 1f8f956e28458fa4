"""Heads, and encoders with heads, as graphs that run without cafe: ONNX and torch.export."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cafe.compat import quiet_libraries
from cafe.datasets.text_files import distinct_names
from cafe.encoders.encoder import Encoder
from cafe.encoders.projection import PreProjectionTower
from cafe.encoders.spatial import SpatialTower
from cafe.errors import CafeError, how_to_install
from cafe.results.saved_head import SavedHead, output_names
from cafe.store.files import DeferredErrorFile

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 1 << 30
"""Bytes of weights in an ONNX file. The format ends at 2 GB; larger weights go to a second file."""

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
        """Probabilities, or probabilities and scores. (N, C) each"""
        logits = self._logits(features)
        # the temperature is for probabilities; scores are of the logits as fitted
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        return (probabilities, torch.sigmoid(logits)) if self._has_scores else probabilities


class ImageGraph(nn.Module):
    """A head behind its encoder's image tower: 8-bit pixels to probabilities.

    Parameters
    ----------
    saved : SavedHead
    encoder : Encoder
        In float32. The graph normalises pixels; the caller resizes and crops them.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, saved: SavedHead, encoder: Encoder) -> None:
        super().__init__()
        config, network = encoder.preprocess.config, encoder._network
        self.head = HeadGraph(saved)
        # mean and std are of pixels in 0 to 1
        self.register_buffer("pixel_mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1))
        if saved.head.pre_projection:
            self.tower: nn.Module = PreProjectionTower(encoder, only=True)
        else:
            self.tower = SpatialTower(network, saved.pool) if saved.pool else _image_tower(encoder)

    def forward(self, pixels: Tensor) -> Tensor | Answer:
        """The head's output for 8-bit RGB (N, 3, S, S). (N, C) each"""
        answer: Tensor | Answer = self.head(
            self.tower((pixels.float() - self.pixel_mean) / self.pixel_std)
        )
        return answer


class _EncodeImage(nn.Module):
    """The image tower of an encoder whose `visual` alone does not give the feature (CoCa)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        feature: Tensor = self.network.encode_image(x)
        return feature


@torch.no_grad()
def _image_tower(encoder: Encoder) -> nn.Module:
    """The part of an encoder that images need; its text tower would double the file."""
    network = encoder._network
    example = torch.zeros(1, 3, *encoder.preprocess.size)
    # CoCa's `visual` returns more than the feature
    alone, feature = network.visual(example), network.encode_image(example)
    is_same = isinstance(alone, Tensor) and torch.equal(alone, feature)
    tower: nn.Module = network.visual if is_same else _EncodeImage(network)
    return tower


def expected_answer(saved: SavedHead, inputs: Tensor) -> Answer:
    """What a graph must give for a head's inputs. (N, C) each"""
    scores = saved.scores(inputs)
    return (saved.probabilities(inputs), *([] if scores is None else [scores]))


def trace(graph: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """A graph as a program for any number of rows."""
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    with quiet_libraries(), torch.no_grad():
        # a head may keep what it computes on the first call: that must be real numbers, not symbols
        graph.eval()(example)
        return torch.export.export(graph, (example,), dynamic_shapes=({0: rows},))


def write_torch(graph: nn.Module, example: Tensor, path: Path, saved: SavedHead) -> None:
    """Write a graph as an archive of `torch.export`, with `SavedHead.about` in "cafe.json"."""
    program = trace(graph, example)
    with quiet_libraries(), DeferredErrorFile(path) as stream:
        torch.export.save(program, stream, extra_files={"cafe.json": json.dumps(saved.about)})
        stream.check()


def run_torch(path: Path, rows: Tensor) -> Answer:
    """The answer of a written archive."""
    with quiet_libraries(), path.open("rb") as stream:
        answer: Tensor | Answer = torch.export.load(stream).module()(rows)
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def check_onnx() -> None:
    """Refuse an ONNX export without its packages, before anything is loaded."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CafeError(
            f"ONNX needs {' and '.join(missing)}, which must be installed: "
            f"{how_to_install('onnx')}."
        )


def write_onnx(graph: nn.Module, example: Tensor, path: Path, saved: SavedHead) -> None:
    """Write a graph as ONNX.

    The file's metadata has `SavedHead.about` under "cafe", and the class names under "class_names".

    Parameters
    ----------
    graph : HeadGraph or ImageGraph
    example : Tensor
        Two rows of input.
    path : Path
    saved : SavedHead
    """
    program = trace(graph, example)
    size = sum(t.nbytes for t in [*program.state_dict.values(), *program.constants.values()])
    with quiet_libraries():
        made = torch.onnx.export(
            program,
            input_names=["pixels" if isinstance(graph, ImageGraph) else "features"],
            output_names=list(output_names(saved)),
            dynamo=True,
            verbose=False,
        )
        if made is None:
            raise CafeError(f"PyTorch {torch.__version__} gave no ONNX graph; update it.")
        made.model.metadata_props["cafe"] = json.dumps(saved.about)
        made.model.metadata_props["class_names"] = json.dumps(distinct_names(saved.class_names))
        made.save(path, external_data=size > _LARGEST)


def run_onnx(path: Path, rows: Tensor) -> Answer:
    """The answer of a written ONNX file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    return tuple(map(torch.from_numpy, outputs))
