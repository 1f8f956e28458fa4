"""Decoding in processes: the images of threads, in order, and errors in one line."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from warnings import warn_explicit

import numpy as np
import pytest
import torch
from making import make_dataset
from stand_in_cuda import some_cuda

from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import CafeError, DatasetError
from cafe.extract import pipeline
from cafe.extract.blocks import ExtractOptions, PlannedBlock, plan_blocks, read_blocks
from cafe.extract.decode import DecodedImage, decode_path, decode_piece, map_ahead
from cafe.extract.decode_processes import decoding_processes, naming_lost_processes
from cafe.extract.extract import extract
from cafe.store import FeatureCache

SENTENCES = [["a disc."], ["a square."]]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Processes even for a few images; the list says how often they were started."""
    started: list[int] = []

    def start(count: int) -> object:
        started.append(count)
        return decoding_processes(count)

    monkeypatch.setattr(pipeline, "_FEW_THREADS", 0)
    monkeypatch.setattr(pipeline, "_MANY_IMAGES", 1)
    monkeypatch.setattr(pipeline, "decoding_processes", start)
    return started


def test_processes_give_the_features_of_threads(
    tiny_folder: Path, tmp_path: Path, always: list[int]
) -> None:
    data = make_dataset(tmp_path / "images", {"train": 20, "test": 5})
    broken = tmp_path / "images" / data.splits["test"][1].id
    broken.write_bytes(broken.read_bytes()[:80])
    options = ExtractOptions(batch_size=4, workers=1)

    def features(device: str) -> FeatureCache:
        encoder = load_encoder(str(tiny_folder), device=device, precision="fp32")
        path = tmp_path / device / "x.h5"
        extract(data, encoder, path, sentences=SENTENCES, options=options)
        return FeatureCache.open(path)

    here = features("cpu")
    assert always == []  # a CPU decodes where it encodes
    with some_cuda():
        there = features("cuda")
        assert always == [1]
        strict = ExtractOptions(batch_size=4, workers=1, on_error="fail")
        encoder = load_encoder(str(tiny_folder), device="cuda", precision="fp32")
        with pytest.raises(DatasetError, match="cannot be read"):
            extract(data, encoder, tmp_path / "y.h5", sentences=SENTENCES, options=strict)
    assert there.counts == here.counts
    for split in here.counts:
        assert there.ids(split) == here.ids(split)
        found, want = there.read(split).features, here.read(split).features
        np.testing.assert_allclose(found, want, atol=1e-3 if torch.cuda.is_available() else 1e-4)


def test_a_lost_process_is_one_line() -> None:
    numbers = map_ahead(end_itself, range(3), 1, pool=decoding_processes(1))
    with (
        pytest.raises(CafeError, match=r"ended from outside.*fewer workers"),
        naming_lost_processes(),
    ):
        list(numbers)


def test_odd_files_are_as_quiet_as_in_threads(capfd: pytest.CaptureFixture[str]) -> None:
    pool = decoding_processes(1)
    assert pool is not None
    for module in ("PIL.PngImagePlugin", "others"):
        pool.submit(warn_explicit, f"from {module}", UserWarning, "x.py", 1, module).result()
    pool.shutdown()
    errors = capfd.readouterr().err
    assert "from others" in errors
    assert "from PIL" not in errors


def test_they_load_little(tmp_path: Path, tiny_folder: Path) -> None:
    data = make_dataset(tmp_path, {"train": 2})
    encoder = load_encoder(str(tiny_folder), device="cpu", precision="fp32").decoding("scaled")
    (batch,) = read_blocks(data.without_items(), encoder, plan(data, encoder), ExtractOptions())
    file = partial(decode_path, tmp_path / data.splits["train"][0].id, encoder.preprocess)
    pool = decoding_processes(1)
    assert pool is not None
    found, _ = pool.submit(decode_piece, ([*batch, file], True)).result()
    assert [image.reason for image in found] == [""] * 3
    loaded = pool.submit(eval, "sorted(__import__('sys').modules)").result()
    pool.shutdown()
    assert "PIL" in loaded
    assert not {"torch", "torchvision", "open_clip", "h5py"} & set(loaded)


def plan(data: Dataset, encoder: Encoder) -> list[PlannedBlock]:
    return plan_blocks(data, encoder, ExtractOptions())


def end_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_end_with_a_program_that_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from cafe.extract.decode_processes import decoding_processes\n"
        "pool = decoding_processes(1)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "waiting = [pool.submit(bytes, 1 << 24) for _ in range(20)]\n"  # more than pipes hold
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # the process has inherited the pipe, which is at its end when all who hold it have ended
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert int(done.stdout) > 0


def test_threads_decode_where_there_are_no_semaphores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Function not implemented")

    monkeypatch.setattr("loky.ProcessPoolExecutor", refuse)
    readers = [[lambda: DecodedImage(None, "first")], [lambda: DecodedImage(None, "second")]]
    decoded = pipeline.decode_ahead(readers, 2, 1, in_processes=True)
    assert [image.reason for batch in decoded for image in batch] == ["first", "second"]
    assert "in threads, since processes cannot be started (Function not" in caplog.text


@pytest.mark.parametrize(
    ("device", "threads", "images", "worth"),
    [("cuda", 16, 10**5, True), ("cuda", 16, 100, False), ("cuda", 2, 10**5, False)],
)
def test_processes_are_for_many_cores_and_images(
    device: str, threads: int, images: int, worth: bool
) -> None:
    assert pipeline.worth_processes(torch.device(device), threads, images) is worth
    assert not pipeline.worth_processes(torch.device("cpu"), threads, images)
