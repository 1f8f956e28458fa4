"""Weights of any origin into a network; no code in them is run.

open_clip reads a checkpoint with `torch.load`, and where that refuses it may try again without
`weights_only`, which runs whatever the file asks for. So cafe reads the tensors itself; open_clip
renames them to fit its networks.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cafe.compat import import_open_clip, quiet_libraries
from cafe.encoders.weights import WeightsSource
from cafe.errors import WeightsError, raise_as
from cafe.store.files import utf8_path

_ADVICE = "give a safetensors file, or a PyTorch file of tensors, made for this architecture"
_NUMPY = (".npz", ".npy")  # of SigLIP's authors; open_clip reads them, without pickle
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's files


def load_weights(network: Any, source: WeightsSource, file: Path) -> None:
    """Put the weights of a checkpoint into a network that open_clip built.

    Raises
    ------
    WeightsError
        If the file holds anything but tensors, or does not fit the network.
    """
    problem = f"'{file}' is no checkpoint of {source.model}"
    with raise_as(WeightsError, problem, _ADVICE, Exception), quiet_libraries():
        open_clip = import_open_clip()
        if file.suffix in _NUMPY:
            open_clip.load_checkpoint(network, str(file))
            return
        source.check_checksums()
        state = _read_openai(file) if source.is_openai_file else read_tensors(file)
        with _given(state) as taken:
            open_clip.load_checkpoint(network, str(file))
        if not taken:
            raise TypeError("this open_clip reads checkpoints in a way that cafe does not know")


@contextmanager
def _given(state: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Give open_clip these weights where it reads a file; yields the files that it asked for."""
    factory: Any = importlib.import_module("open_clip.factory")
    before, taken = factory.load_state_dict, list[str]()

    def give(file: str, *_: object, **__: object) -> dict[str, Tensor]:
        taken.append(file)
        return dict(state)

    factory.load_state_dict = give
    try:
        yield taken
    finally:
        factory.load_state_dict = before


def read_tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, by name."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        with utf8_path(file) as path:
            return load_file(path)
    if _is_torchscript(file):
        raise TypeError("it is a TorchScript archive, which holds code")
    # weights_only builds tensors and nothing else, whatever the file asks for
    with utf8_path(file) as path:
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise TypeError("it holds more than tensors by name")
    parallel = all(str(name).startswith("module.") for name in state)  # trained on several devices
    return {str(name).removeprefix("module." * parallel): value for name, value in state.items()}


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_openai(file: Path) -> Mapping[str, Tensor]:
    """OpenAI's own files are TorchScript archives; they are known by their SHA-256."""
    load: Any = torch.jit.load
    state: dict[str, Tensor] = load(file, map_location="cpu").state_dict()
    return {name: tensor for name, tensor in state.items() if name not in _NO_WEIGHTS}
