"""What many tests need: a tiny untrained encoder, a small dataset, a cache of noise."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from making import TINY, make_block, make_dataset, make_header

from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.store import write_cache

settings.register_profile("cafe", deadline=None)  # a busy machine is no failure
settings.load_profile("cafe")


@pytest.fixture(scope="session", autouse=True)
def own_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What cafe keeps for a user does not come from, or reach, the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another take minutes where other processes want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local architecture with weights, in the layout that open_clip writes."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY))
    network = load_encoder(str(folder), "none", device="cpu", precision="fp32")._network
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Encoder:
    """The tiny encoder in fp32 on the CPU."""
    torch.set_num_threads(1)  # so small a model only waits for a second thread on a busy machine
    return load_encoder(str(tiny_folder), device="cpu", precision="fp32")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Twenty training images, four of each other split."""
    return make_dataset(tmp_path / "images", {"train": 20, "val": 4, "test": 4})


@pytest.fixture
def noise_cache(tmp_path: Path) -> Path:
    """A small cache file with every split and augmented views."""
    path = tmp_path / "cache" / "noise" / "tiny.none.h5"
    splits = {
        "train": [make_block(30, views=2), make_block(10, start=30, views=2)],
        "val": [make_block(6, start=40)],
        "test": [make_block(9, start=50)],
    }
    skipped = (("train", "broken.png", "OSError: truncated"),)
    header = make_header(skipped=skipped, missing=("gone.png",), source="noise")
    write_cache(path, header, splits)
    return path


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model hub that nothing answers for."""
    monkeypatch.setattr("cafe.encoders.hub.reachable", lambda *_: False)
