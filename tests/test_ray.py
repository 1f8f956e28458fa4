"""The same work on a Ray cluster: files, numbers and errors are the same, a worker may be lost."""

import contextlib
import importlib.util
import os
import pickle
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from making import make_block, make_dataset, make_header
from PIL import Image

import cafe
from cafe import errors
from cafe.cluster import _join, workers_for
from cafe.datasets.dataset import Dataset, Item
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.errors import (
    CacheMismatchError,
    CafeError,
    DatasetError,
    DeviceError,
    UnknownNameError,
    WeightsError,
)
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import Extraction, extract
from cafe.extract.ray import RayEngine
from cafe.store import FeatureCache, verify_cache, write_cache
from cafe.study.on_ray import SharedCache
from cafe_cli.main import main

ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CafeError) and kind is not UnknownNameError
]
SENTENCES = (("a disc.",), ("a square.",))
OPTIONS = ExtractOptions(batch_size=2, workers=1)  # blocks of 16 images
SIZES = {"train": 70, "test": 20}
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'"
)
pytestmark = [  # Ray warns of its own options, and closes files and processes when it likes
    pytest.mark.filterwarnings(rf"ignore::{kind}:ray\b")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning")
] + [pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers' worth of this machine, on loopback."""
    patch = pytest.MonkeyPatch()
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one to the home folder
    }.items():
        patch.setenv(name, value)
    patch.delenv("RAY_ADDRESS", raising=False)
    import ray

    ray.init(
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()
    patch.undo()


def fatal(dataset: Dataset, log: Path, victim: str) -> Dataset:
    """The dataset, whose image `victim` kills the process that opens it, once."""

    class Fatal(Dataset):  # in a function, so that workers get it by value
        def open_image(self, item: Item) -> Image.Image:
            with (log / f"{os.getpid()}").open("a") as lines:
                print(item.id, file=lines)
            killed = log / "killed"
            if item.id == victim and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().open_image(item)

    log.mkdir()
    return Fatal(**vars(dataset))


@needs_ray
def test_a_killed_worker_costs_its_block_and_nothing_else(
    cluster: Any, one_thread: None, tiny: Encoder, tiny_folder: Path, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "images", SIZES)
    (tmp_path / "images/test/3.png").write_bytes(b"no image")
    options = replace(OPTIONS, augmentation=Augmentation(2))
    whole = extract(dataset, tiny, tmp_path / "local/a.h5", sentences=SENTENCES, options=options)
    calls: list[tuple[str, int, int]] = []
    done = extract(
        fatal(dataset, tmp_path / "log", "train/21.png"),
        tiny,
        tmp_path / "ray/a.h5",
        sentences=SENTENCES,
        options=replace(options, progress=lambda *call: calls.append(call)),
        engine=RayEngine(str(tiny_folder)),
    )
    assert (done.images, done.skipped) == (whole.images, 1) == (89, 1)
    assert (
        FeatureCache.open(done.path).content_sha256 == FeatureCache.open(whole.path).content_sha256
    )
    assert verify_cache(done.path).problems == ()
    assert [file.name for file in done.path.parent.iterdir()] == ["a.h5"]
    assert sorted(done for _, done, _ in calls)[-1] == 90
    logs = [file for file in (tmp_path / "log").iterdir() if file.name != "killed"]
    assert (tmp_path / "log/killed").exists()
    assert 2 <= len(logs) <= 3  # two workers, and the one that came after
    opened = [name for log in logs for name in log.read_text().split()]
    assert set(opened) == {item.id for items in dataset.splits.values() for item in items}
    assert len(opened) - len(set(opened)) < 16  # at most the block that was under way


@needs_ray
def test_a_grid_on_a_cluster_is_the_grid_of_one_machine(
    cluster: Any,
    one_thread: None,
    noise_cache: Path,
    tmp_path: Path,
) -> None:
    grid = partial(cafe.grid, noise_cache, ratio=[0.2, 0.8], bottleneck="4", shots=[2, 4], seeds=2)
    options: dict[str, Any] = {"epochs": 5, "device": "cpu", "precision": "fp32"}
    whole = grid(runs=tmp_path / "local", **options)

    def stop(_: str, done: int, total: int) -> None:
        assert 0 < done < total == 40
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid(runs=tmp_path / "ray", engine="ray", progress=stop, **options)
    notes: list[str] = []
    done = grid(runs=tmp_path / "ray", note=notes.append, **options)
    assert notes == ["2 runs were finished earlier, in fp32."]
    assert done.trained == 6
    assert [{**row, "val_nll": 0} for row in done.rows] == [
        {**row, "val_nll": 0} for row in whole.rows
    ]
    losses = [[row["val_nll"] for row in result.rows] for result in (done, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert done.best == whole.best


@needs_ray
def test_a_comparison_on_a_cluster_is_that_of_one_machine(
    cluster: Any, one_thread: None, noise_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(noise_cache.parents[2])
    other = Path("cache/noise/other.none.h5")
    write_cache(
        other, make_header(), {"train": [make_block(20)], "test": [make_block(9, start=50)]}
    )
    compare = partial(
        cafe.compare,
        ["cache/noise/tiny.none.h5", str(other)],
        methods=["nearest-class", "gda", "clip-adapter"],
        shots=[1, 4],
        seeds=2,
        epochs=5,
        device="cpu",
        precision="fp32",
    )
    calls: list[tuple[str, int, int]] = []
    done = compare(engine="ray", progress=lambda *call: calls.append(call))
    whole = compare(runs=None)
    assert calls[-1] == ("2 caches compared", 2, 2)
    for ours, its in zip([*done.records, done.record], [*whole.records, whole.record], strict=True):
        assert ours.cache == its.cache
        assert ours.protocol == its.protocol
        assert [part.accuracy for part in ours.results] == [part.accuracy for part in its.results]
        assert ours.folder is not None
    head = next(Path("runs").glob("*/gda.4shot.seed0.safetensors"))
    assert cafe.load_head(head).head.method == "gda"


def test_a_worker_with_another_cache_is_refused(
    noise_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = contextlib.nullcontext(InProcess())
    monkeypatch.setattr("cafe.study.on_ray.join_cluster", lambda: here)
    replaced = replace(FeatureCache.open(noise_cache), content_sha256="0" * 64)
    monkeypatch.setattr(
        SharedCache, "of", lambda cache: SharedCache(cache.path, replaced.content_sha256)
    )
    with pytest.raises(CacheMismatchError, match="is another cache than on the machine that"):
        cafe.grid(noise_cache, shots=2, engine="ray", device="cpu", runs=tmp_path)


class InProcess:
    """Ray's part without a cluster; what a worker is sent is pickled."""

    class exceptions:  # noqa: N801 - a module of Ray's
        RayError = RayTaskError = ()

    def __init__(self) -> None:
        self.data = self
        self.rows: list[dict[str, bytes]] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def from_items(self, rows: list[dict[str, bytes]], override_num_blocks: int) -> "InProcess":
        assert override_num_blocks == len(rows)
        self.rows = rows
        return self

    def map(self, kind: Any, fn_constructor_args: Any, **_: Any) -> "InProcess":
        self.worker = kind(*pickle.loads(pickle.dumps(fn_constructor_args)))  # noqa: S301
        return self

    def iter_rows(self) -> Iterator[Any]:
        return map(self.worker, self.rows)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    dataset: Dataset,
    tiny: Encoder,
    tiny_folder: Path,
    tmp_path: Path,
) -> Callable[..., Extraction]:
    """Extracts without a cluster, by the same code but Ray's own."""
    monkeypatch.setattr(
        "cafe.extract.ray.join_cluster", lambda: contextlib.nullcontext(InProcess())
    )
    monkeypatch.chdir(tmp_path)

    def call(encoder: Encoder = tiny, model: str = str(tiny_folder), **changes: Any) -> Extraction:
        options = replace(OPTIONS, **changes)
        path, engine = Path("cache/a.h5"), RayEngine(model)
        return extract(dataset, encoder, path, sentences=SENTENCES, options=options, engine=engine)

    return call


def blocks() -> int:
    return len(list(Path("cache").glob(".a.h5.partial/*.npz")))


def test_an_image_that_vanishes_is_the_same_error(
    run: Callable[..., Extraction], tmp_path: Path
) -> None:
    (tmp_path / "images/test/2.png").rename(tmp_path / "away.png")
    with pytest.raises(DatasetError, match=r"'test/2\.png' .*is gone; bring it back"):
        run()
    assert blocks() == 3
    (tmp_path / "away.png").rename(tmp_path / "images/test/2.png")
    calls: list[tuple[str, int, int]] = []
    assert run(progress=lambda *call: calls.append(call)).images == 4  # the others are kept
    assert calls == [("test", 28, 28)]


def test_a_worker_with_other_weights_is_refused(
    run: Callable[..., Extraction], tiny: Encoder
) -> None:
    with pytest.raises(WeightsError, match=r"of this extraction: the encoder has other weights"):
        run(replace(tiny, weights_sha256="f" * 64))
    assert blocks() == 0


def test_a_name_that_a_worker_does_not_know(run: Callable[..., Extraction]) -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'ViT-B-33'; did you mean ViT-B-32"):
        run(model="ViT-B-33")


def test_a_block_that_kills_every_worker_is_given_up(
    run: Callable[..., Extraction], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> int:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("cafe.extract.ray_worker.encode_blocks", die)
        patch.setattr("cafe.extract.ray_worker.TRIES", ".deaths")  # which the driver does not clear
        for _ in range(4):
            with pytest.raises(SystemExit):
                run()
        with pytest.raises(CafeError, match=r"4 workers died .*'train/0\.png' and the 15 images"):
            run()
    assert run().images == 28


def test_workers_that_a_cluster_has_room_for() -> None:
    assert workers_for("cuda", 4, {"CPU": 64.0, "GPU": 8.0}) == (8, 1, 1, 8)
    assert workers_for("cpu", 4, {"CPU": 10.0, "GPU": 8.0}) == (2, 4, 0, 4)
    with pytest.raises(DeviceError, match="has no GPU; use device='cpu'"):
        workers_for("cuda", 4, {"CPU": 64.0})
    assert workers_for("cpu", 4, {"CPU": 2.0}) == (1, 2, 0, 2)


@pytest.mark.parametrize(
    "error",
    [UnknownNameError("model", "a", ["b"], "Or not."), *(kind("why.") for kind in ERRORS)],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel(error: CafeError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again)) == (type(error), str(error))


class Unreachable:
    """Ray where no cluster runs, but what it starts itself."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def init(self, address: str, **_: Any) -> None:
        if address != "local":
            raise ConnectionError
        self.started.append(address)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Unreachable()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(CafeError, match="no Ray cluster answers at 'head:6379', which RAY_ADDRESS"):
        _join(ray)
    assert ray.started == []
    monkeypatch.delenv("RAY_ADDRESS")
    _join(ray)
    assert ray.started == ["local"]


@pytest.mark.parametrize("words", ["extract digits", "grid noise --shots 4", "compare noise"])
def test_without_ray(
    words: str,
    noise_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"cafe {words} --engine ray --cache {noise_cache.parents[1]}"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code
    assert capsys.readouterr().err == (
        "cafe: the engine 'ray' needs Ray, which is not installed: pip install 'cafe-clip[ray]', "
        "or in cafe's source folder pip install '.[ray]'.\n"
    )
