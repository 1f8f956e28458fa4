"""Files from strangers: no code in them is run, and none of them reaches out of its folder."""

from __future__ import annotations

import json
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cafe.compat import import_open_clip
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import WeightsError


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class Trick:
    """A pickle reads it; under `weights_only` it is a TypeError, after which open_clip tries again
    without."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), (None, {"a": 1})


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there if code has been run."""
    # what a bare torch.load means under torch before 2.6
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    return tmp_path / "code-was-run"


def load(folder: Path, weights: Path) -> Encoder:
    return load_encoder(str(folder), str(weights), device="cpu", precision="fp32")


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "pickle"])
def test_weights_that_hold_code(tiny_folder: Path, mark: Path, name: str, old: bool) -> None:
    file = mark.with_name(name)
    for content in (
        Evil(mark),
        {"state_dict": Evil(mark)},
        {"logit_scale": torch.tensor(1.0), "x": Evil(mark)},
        [Trick(), Evil(mark)],
    ):
        torch.save(content, file, _use_new_zipfile_serialization=not old)
        with pytest.raises(WeightsError, match="is no checkpoint of tiny"):
            load(tiny_folder, file)
        assert not mark.exists()


def test_weights_that_make_the_reader_fail(tiny_folder: Path, mark: Path) -> None:
    """open_clip answers a TypeError with a second, unsafe try."""
    file = mark.with_name("w.pt")
    code = pickle.dumps(Evil(mark))
    file.write_bytes(code)
    with pytest.raises(WeightsError):
        load(tiny_folder, file)
    for content in (3, None, [1], {"a": 1}, {"state_dict": 3}, {"state_dict": {}}, {}, "text"):
        torch.save(content, file)
        with pytest.raises(WeightsError, match="is no checkpoint of tiny"):
            load(tiny_folder, file)
    np.savez(file.with_suffix(".npz"), np.array([Evil(mark)], dtype=object))
    with pytest.raises(WeightsError):
        load(tiny_folder, file.with_suffix(".npz"))
    np.save(file.with_suffix(".npy"), np.array([Evil(mark)], dtype=object))
    with pytest.raises(WeightsError):
        load(tiny_folder, file.with_suffix(".npy"))
    assert not mark.exists()


def test_a_torchscript_archive_is_not_run(tiny_folder: Path, tmp_path: Path) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        script: Any = torch.jit.script
        script(Module()).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="TorchScript archive, which holds code"):
        load(tiny_folder, tmp_path / "w.pt")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_are_loaded_as_open_clip_does(
    tiny: Encoder, tiny_folder: Path, tmp_path: Path, prefix: str, wrap: Any
) -> None:
    state = {f"{prefix}{name}": value for name, value in tiny._network.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    encoder = load(tiny_folder, tmp_path / "w.pt")
    sentences = ["a disc."]
    assert torch.equal(encoder.encode_text(sentences), tiny.encode_text(sentences))


def test_an_open_clip_that_reads_in_another_way_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setattr(import_open_clip(), "load_checkpoint", lambda *_: None)
    with pytest.raises(WeightsError, match="in a way that cafe does not know"):
        load(tiny_folder, tmp_path / "w.pt")


def test_code_that_comes_with_a_tokenizer_is_not_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's folder may say `trust_remote_code` in its configuration."""
    config = json.loads((tiny_folder / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    text |= {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"trust_remote_code": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").touch()
    asked: list[dict[str, Any]] = []

    class RefusedError(Exception):
        pass

    def tokenizer(*_: object, **options: Any) -> None:
        asked.append(options)
        raise RefusedError("no code")

    monkeypatch.setattr("cafe.encoders.tokenizer.importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr(import_open_clip().factory, "HFTokenizer", tokenizer)
    with pytest.raises(WeightsError, match="no code"):
        load_encoder(str(tmp_path), "none", device="cpu", precision="fp32")
    assert [options["trust_remote_code"] for options in asked] == [False]
