"""The CUDA path: what lies on which device, what it computes, and what memory does.

It runs on a GPU where there is one, else on a stand-in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import Answer, call, digits_run
from drawing import draw_images, draw_task, draw_validation_set
from making import make_dataset
from needing import settings_for
from stand_in_cuda import DeviceError, some_cuda, stand_in_cuda
from torch import Tensor

import cafe
from cafe.curation.label_errors import fit_judges
from cafe.datasets.boxes.boxes import BoxColumns
from cafe.detection.encode_boxes import encode_boxes
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.engine import Recipe, Run, train
from cafe.engine.workspace import Workspace
from cafe.errors import CafeError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.decode import DecodedImage
from cafe.extract.encode import LoaderOptions, encode_batch
from cafe.extract.encode_images import encode_all
from cafe.extract.extract import extract
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Protocol, Validation
from cafe.methods.catalog import CATALOG, find_method, make_method
from cafe.methods.clip_adapter.architecture import VisualAdapter
from cafe.methods.head import Head
from cafe.store import FeatureCache

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ON_GPU = torch.cuda.is_available()
CLOSE = {"atol": 0.05, "rtol": 0.01} if ON_GPU else {"atol": 1e-4, "rtol": 1e-4}
"""Of logits: a GPU adds in another order, and a ReLU's input near 0 may change its side."""
FEATURES = 1e-3 if ON_GPU else 1e-4
"""Of features: cuDNN's convolutions may take TF32, by PyTorch's default."""
TEST, HELD = draw_images(), draw_validation_set().features


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    with some_cuda() as device:
        yield device


@pytest.mark.skipif(ON_GPU, reason="there is a CUDA device")
class TestStandIn:
    def test_refuses_tensors_of_the_cpu(self, cuda: torch.device) -> None:
        there = torch.zeros(3, 4, device=cuda)
        with pytest.raises(DeviceError, match="meets cpu"):
            there + torch.ones(3, 4)
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        assert (there + torch.tensor(1.0)).cpu().sum() == 12  # a scalar may meet any

    def test_computes_as_the_cpu(self, cuda: torch.device) -> None:
        x, v = torch.randn(5, 4), torch.randn(4)
        for here in (lambda x, v: x @ v, lambda x, v: v @ x.mT, lambda x, v: (v @ v)[None]):
            torch.testing.assert_close(here(x.to(cuda), v.to(cuda)).cpu(), here(x, v))

    def test_is_gone_afterwards(self) -> None:
        with stand_in_cuda():
            pass
        assert not torch.cuda.is_available()
        assert type(torch.zeros(2).cpu()) is Tensor


def fit(name: str, device: torch.device, protocol: Protocol) -> Head:
    train_set = draw_task()
    there = TrainingSet(train_set.features.to(device), train_set.text.to(device))
    held = HELD.to(device) if HELD is not None and "f" in protocol else None
    settings = {"epochs": 3, **settings_for(name)}
    method = make_method(name, Context(device, precision="fp32"), settings)
    return method.fit(there, validation=Validation(protocol, held), seed=0)


@pytest.mark.parametrize("protocol", ["cv", "few-shot"])
@pytest.mark.parametrize("name", CATALOG)
def test_every_method_fits_predicts_and_survives_a_file(
    name: str, protocol: Protocol, cuda: torch.device
) -> None:
    here, there = fit(name, CPU, protocol), fit(name, cuda, protocol)
    asked = TEST.inputs(**here.takes)
    logits = there.logits(asked.to(cuda))
    assert logits.device == cuda
    torch.testing.assert_close(logits.cpu(), here.logits(asked), **CLOSE)
    assert there.params.keys() == here.params.keys()
    if not ON_GPU:
        assert there.params == here.params
    tensors = {key: value.cpu() for key, value in there.tensors().items()}
    again = find_method(name).make_head(tensors, json.loads(json.dumps(dict(there.params))))
    torch.testing.assert_close(again.logits(asked), logits.cpu(), atol=CLOSE["atol"] / 10, rtol=0)


@pytest.mark.parametrize("name", ["lda-prior", "tip-adapter-f"])
def test_labels_are_judged_as_on_the_cpu(name: str, cuda: torch.device) -> None:
    task = draw_task((4,) * 5)
    here, there = (
        fit_judges(task.features, task.text, name, Context(device, precision="fp32"))
        for device in (CPU, cuda)
    )
    for (rows, p), (same_rows, q) in zip(here.blocks(), there.blocks(), strict=True):
        assert torch.equal(rows, same_rows)
        torch.testing.assert_close(p, q, **CLOSE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_engine_trains_chunks_in_both_precisions(cuda: torch.device, precision: Any) -> None:
    runs, sets = make_runs(6), [draw_task(seed=0), draw_task(seed=1)]
    there = train(runs, sets, device=cuda, precision=precision)
    here = train(runs, sets, device=CPU, precision=precision)
    for a, b in zip(there, here, strict=True):
        for key, value in b.tensors.items():
            assert a.tensors[key].device == cuda
            atol = 2e-2 if ON_GPU else 2e-3
            torch.testing.assert_close(a.tensors[key].cpu(), value, atol=atol, rtol=1e-3)


def make_runs(count: int) -> list[Run]:
    recipe = Recipe(epochs=2, batch_size=16)
    return [
        Run(VisualAdapter(4), index % 2, index // 2, recipe, {"ratio": 0.1 * (index + 1)})
        for index in range(count)
    ]


class Waiting(VisualAdapter):
    """An adapter whose step waits for the GPU, which a CUDA graph cannot."""

    def gradients(self, params: Any, batch: Any, grads: Any, work: Workspace) -> None:
        if float(params["down"].sum()) == float(params["down"].sum()):
            super().gradients(params, batch, grads, work)


@pytest.mark.parametrize("learn_ratio", [False, True])
def test_replayed_steps_give_the_weights_of_plain_ones(
    learn_ratio: bool, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays: list[int] = []
    graph = type(torch.cuda.CUDAGraph())
    replay = graph.replay

    def counted(self: Any) -> None:
        replays.append(1)
        replay(self)

    monkeypatch.setattr(graph, "replay", counted)
    train_set, recipe = draw_task(), Recipe(epochs=8, batch_size=16)  # batches of 16 and of 4
    of = {"learn_ratio": learn_ratio}
    kinds = [VisualAdapter(4, **of), Waiting(4, **of)]
    runs = [Run(kind, 0, 0, recipe, {"ratio": 0.3}) for kind in kinds]
    replayed, plain = train(runs, [train_set], device=cuda, precision="fp32")
    assert len(replays) == 2 * (recipe.epochs - 3)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()  # a capture failed in between
    (on_cpu,) = train(runs[:1], [train_set], device=CPU, precision="fp32")
    for key, value in plain.tensors.items():
        torch.testing.assert_close(replayed.tensors[key], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(replayed.tensors[key].cpu(), on_cpu.tensors[key], **CLOSE)


class TestMemory:
    """What happens where a GPU has less memory than it was thought to have."""

    @pytest.fixture
    def chunks(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Runs of each chunk that was begun; those of more than `most` find no memory."""
        begun: list[int] = []
        plain = VisualAdapter.gradients

        def gradients(
            architecture: VisualAdapter, params: Any, batch: Any, grads: Any, work: Workspace
        ) -> None:
            runs = next(iter(params.values())).shape[:2].numel()
            begun.append(runs)
            if runs > self.most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            plain(architecture, params, batch, grads, work)

        monkeypatch.setattr(VisualAdapter, "gradients", gradients)
        return begun

    most = 2

    def test_a_chunk_is_halved_until_it_fits(self, chunks: list[int], cuda: torch.device) -> None:
        runs, sets = make_runs(6), [draw_task(seed=0), draw_task(seed=1)]
        steps: list[tuple[int, int]] = []
        self.most = 100
        want = train(runs, sets, device=cuda, precision="fp32")
        self.most = 2
        found = train(
            runs, sets, device=cuda, precision="fp32", progress=lambda *step: steps.append(step)
        )
        assert max(chunks) == 6
        assert steps[-1] == (12, 12)
        for a, b in zip(found, want, strict=True):
            for key, value in b.tensors.items():
                atol = 1e-3 if ON_GPU else 1e-5
                torch.testing.assert_close(a.tensors[key].cpu(), value.cpu(), atol=atol, rtol=0)

    def test_one_run_that_does_not_fit_is_one_line(
        self, chunks: list[int], cuda: torch.device
    ) -> None:
        self.most = 0
        with pytest.raises(CafeError, match=r"no memory for one run.*device="):
            train(make_runs(2), [draw_task()] * 2, device=cuda, precision="fp32")

    @pytest.mark.parametrize("most", [1, 3, 100])
    def test_a_batch_of_images_is_halved(
        self, tiny: Encoder, monkeypatch: pytest.MonkeyPatch, most: int
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        size = (1, *tiny.preprocess.size, 3)
        images = [
            DecodedImage(torch.randint(256, size, generator=generator, dtype=torch.uint8).numpy())
            for _ in range(7)
        ]
        images.insert(3, DecodedImage(None, "broken"))
        want = encode_batch(tiny, images, None).features
        monkeypatch.setattr(Encoder, "encode_pixels", short_of_memory(most))
        found = encode_batch(tiny, images, None).features
        assert found.shape == want.shape
        assert abs(found - want).max() < 1e-5

    def test_boxes_of_an_image_are_halved(
        self, tiny: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        data = make_dataset(tmp_path, {"test": 1})
        columns = BoxColumns()
        for place in range(4):
            columns.image.append(0)
            columns.xywh.extend((place, 0, 4, 4))
            columns.labels.append(0)
        boxes = columns.boxes("boxes.json", [data.splits["test"][0].id], ("cell",))

        def features() -> Tensor:
            (part,) = encode_boxes(tiny, boxes, data.root or tmp_path, (1.0, 1.5), LoaderOptions())
            return part.features

        want = features()
        monkeypatch.setattr(Encoder, "encode_pixels", short_of_memory(3))
        torch.testing.assert_close(features(), want, atol=1e-5, rtol=0)

    def test_one_image_that_does_not_fit_is_one_line(
        self, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Encoder, "encode_pixels", short_of_memory(0))
        pixels = torch.zeros(1, *tiny.preprocess.size, 3, dtype=torch.uint8).numpy()
        with pytest.raises(CafeError, match="no memory for one image"):
            encode_batch(tiny, [DecodedImage(pixels)] * 2, None)


def short_of_memory(most: int) -> Callable[[Encoder, Tensor], Tensor]:
    plain = Encoder.encode_pixels

    def encode_pixels(encoder: Encoder, pixels: Tensor) -> Tensor:
        if len(pixels) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(encoder, pixels)

    return encode_pixels


@pytest.mark.parametrize("spatial", [None, 2])
def test_extraction_gives_the_features_of_the_cpu(
    tiny_folder: Path, tmp_path: Path, spatial: int | None
) -> None:
    data = make_dataset(tmp_path / "images", {"train": 12, "test": 5})
    read: Callable[[Encoder, Path], FeatureCache] = partial(extracted, data, spatial)
    here = read(load_encoder(str(tiny_folder), device="cpu", precision="fp32"), tmp_path / "cpu")
    with some_cuda():
        encoder = load_encoder(str(tiny_folder), device="auto", precision="fp32")
        assert encoder.device.type == "cuda"
        there = read(encoder, tmp_path / "cuda")
    assert there.header.key == here.header.key
    for split in here.counts:
        assert there.ids(split) == here.ids(split)
        a, b = there.read(split), here.read(split)
        np.testing.assert_allclose(a.features, b.features, atol=FEATURES)
        if spatial is not None:
            maps = there.read_spatial_maps(split), here.read_spatial_maps(split)
            np.testing.assert_allclose(*maps, atol=1e-2)


def test_calls_share_their_streams(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps memory for each stream, and a server asks for one batch after another."""
    used: list[Any] = []
    with some_cuda(), monkeypatch.context() as patch:
        plain = torch.cuda.stream

        def counted(stream: Any) -> Any:
            used.append(stream)
            return plain(stream)

        patch.setattr(torch.cuda, "stream", counted)
        encoder = load_encoder(str(tiny_folder), device="cuda", precision="fp32")
        images = [np.full((32, 32, 3), value, np.uint8) for value in range(5)]
        for _ in range(3):
            encode_all(encoder, images, LoaderOptions(batch_size=2))
    assert len(used) == 9
    assert len({id(stream) for stream in used}) == 2


def extracted(data: Any, spatial: int | None, encoder: Encoder, folder: Path) -> FeatureCache:
    sentences = [["a disc."], ["a square."]]
    options = ExtractOptions(spatial=spatial, batch_size=4, workers=2)
    extract(data, encoder, folder / "x.h5", sentences=sentences, options=options)
    return FeatureCache.open(folder / "x.h5")


@pytest.fixture
def run(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cuda: torch.device,
) -> Callable[..., Answer]:
    monkeypatch.chdir(digits_run(tmp_path_factory))
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return partial(call, monkeypatch, capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--method", "auto", "--shots", "2", "--seeds", "1"],
        ["compare", "--methods", "gda,tip-adapter-f", "--shots", "1", "--seeds", "1"],
        ["compare", "--methods", "clip-adapter", "--base-to-new", "--shots", "1", "--seeds", "1"],
        ["grid", "--shots", "2", "--seeds", "1", "--epochs", "2", "--yes"],
    ],
)
def test_commands(run: Callable[..., Answer], words: Sequence[str], tmp_path: Path) -> None:
    answer = run(*words, "--device", "cuda", "--runs", str(tmp_path / "runs"))
    assert answer.code == 0, answer.err


def test_prediction_and_export(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cafe.Predictor.load("runs/mine", device="cpu")
    there = cafe.Predictor.load("runs/mine", device="cuda")
    make_dataset(tmp_path / "new", {"test": 6})
    images = sorted(str(path) for path in (tmp_path / "new").rglob("*.png"))
    for a, b in zip(there.predict(images), here.predict(images), strict=True):
        assert a.label == b.label
    answer = run("export", "runs/mine", "--format", "torch", "-o", str(tmp_path / "head.pt2"))
    assert answer.code == 0, answer.err


@pytest.mark.usefixtures("run")
def test_a_model_answers_where_it_was_made() -> None:
    made = cafe.train(cafe.FeatureCache.open(), method="gda", device="cuda", output="model")
    again = cafe.load_model("model", device="cuda")
    image = np.zeros((32, 32, 3), np.uint8)
    np.testing.assert_allclose(made.predict_proba([image]), again.predict_proba([image]), atol=1e-5)
