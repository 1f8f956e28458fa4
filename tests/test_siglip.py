"""SigLIP all the way: tokenizer, preprocess, logit bias and sigmoid scores, from images to exports.

The models are untrained and small, but of open_clip's own classes for SigLIP: a timm tower with an
attention pool, and a text tower that reads its last token without a causal mask.
"""

from __future__ import annotations

import csv
import functools
import importlib.machinery
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import Answer, call
from making import make_dataset
from PIL import Image
from safetensors.torch import save_file

import cafe
from cafe.compat import import_open_clip
from cafe.datasets.prompts import fill
from cafe.encoders import tokenizer
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.spatial import encode_with_map
from cafe.encoders.weights import default_pretrained, encoder_names, locate
from cafe.errors import WeightsError
from cafe.extract.extract import extract
from cafe.inference import graphs
from cafe.results.runs import HeadSelector, find_head

Run = Callable[..., Answer]
TOWER = "vit_base_patch16_siglip_224"
SCALE, BIAS = 117.33, -12.93  # of ViT-B-16-SigLIP, roughly
WORDS = ["<pad>", "</s>", "<unk>", "a", "disc", "square", "photo", "of"]
SIGLIP = {
    "model_cfg": {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": TOWER,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": len(WORDS),
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "preprocess_cfg": {
        "size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


class Words:
    """Stands for a tokenizer of transformers: an id per word, then the end, then padding."""

    def __init__(self, ids: dict[str, int]) -> None:
        self.ids = ids

    @classmethod
    def from_pretrained(cls, name: str | Path, **_: object) -> Words:
        file = Path(name) / "tokenizer.json"
        if not file.is_file():
            raise OSError(f"{name} is no folder here and cannot be fetched")
        return cls({word: number for number, word in enumerate(json.loads(file.read_text()))})

    def __call__(self, texts: list[str], *, max_length: int, **_: object) -> types.SimpleNamespace:
        rows = [[self.ids.get(word, 2) for word in text.split()] + [1] for text in texts]
        rows = [(row + [0] * max_length)[:max_length] for row in rows]
        return types.SimpleNamespace(input_ids=torch.tensor(rows))


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """timm's SigLIP tower with few and narrow layers, and a stub of transformers."""
    import_open_clip()
    import timm

    stub = types.ModuleType("transformers")
    stub.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
    stub.AutoTokenizer = Words  # type: ignore[attr-defined]
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers", stub)
        patch.setattr(timm, "create_model", functools.partial(timm.create_model, **sizes))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local SigLIP with weights and tokenizer, as its page on the hub has them."""
    made = tmp_path_factory.mktemp("siglip") / "siglip"
    made.mkdir()
    (made / "open_clip_config.json").write_text(json.dumps(SIGLIP))
    (made / "tokenizer.json").write_text(json.dumps(WORDS))
    network = load_encoder(str(made), "none", device="cpu", precision="fp32")._network
    network.logit_scale.data.fill_(np.log(SCALE))
    network.logit_bias.data.fill_(BIAS)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, made / "open_clip_model.safetensors")
    return made


@pytest.fixture(scope="module")
def siglip(folder: Path) -> Encoder:
    return load_encoder(str(folder), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def work(folder: Path, siglip: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with images, a cache of their features and a run."""
    made = tmp_path_factory.mktemp("work")
    dataset = make_dataset(made / "images", {"train": 16, "val": 4, "test": 6})
    sentences = fill(dataset.class_names, dataset.templates)
    path = made / "cache/shapes/siglip.local.h5"
    extract(dataset, siglip, path, sentences=sentences)
    methods = ["clip-adapter", "taskres", "gda", "knn"]
    record = cafe.fit(
        path, method=methods, shots=4, seeds=1, epochs=2, runs=made / "runs", device="cpu"
    )
    assert record.folder is not None
    record.folder.rename(made / "runs/mine")
    return made


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(work)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return lambda *words: call(monkeypatch, capsys, *words)


def head(work: Path, method: str) -> cafe.results.saved_head.SavedHead:
    return cafe.load_head(find_head(work / "runs/mine", HeadSelector(method)))


def test_the_classes_are_those_of_siglip(siglip: Encoder) -> None:
    network = siglip._network
    assert type(network).__name__ == "CustomTextCLIP"
    assert type(network.visual.trunk.attn_pool).__name__ == "AttentionPoolLatent"
    assert network.text.attn_mask is None
    assert network.text.pool_type == "last"


def test_scale_bias_and_features(siglip: Encoder) -> None:
    assert siglip.logit_scale == pytest.approx(SCALE, rel=1e-5)
    assert siglip.logit_bias == pytest.approx(BIAS, rel=1e-6)
    assert siglip.encode_text(["a disc.", "a square."]).shape == (2, siglip.width)


def test_half_precision_leaves_scale_and_bias_alone(folder: Path, siglip: Encoder) -> None:
    half = load_encoder(str(folder), device="cpu", precision="bf16")
    assert half.logit_scale == pytest.approx(SCALE, rel=1e-5)
    assert half.logit_bias == pytest.approx(BIAS, rel=1e-6)
    pixels = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8)
    cosines = torch.cosine_similarity(half.encode_pixels(pixels), siglip.encode_pixels(pixels))
    assert cosines.min() > 0.99


def test_prompts_are_read_as_siglip_reads_them(siglip: Encoder) -> None:
    tokens = siglip.token_ids(["A photo, of a Disc!", "a photo of a disc"])
    assert tokens.shape == (2, 12)
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0].tolist() == [3, 6, 7, 3, 4, 1, 0, 0, 0, 0, 0, 0]


def test_images_are_squashed(siglip: Encoder) -> None:
    wide = Image.new("RGB", (320, 32), "white")
    wide.paste("black", (0, 0, 32, 32))  # the left tenth, which a crop of the centre would lose
    pixels = siglip.preprocess.pixels(wide)
    assert siglip.preprocess.size == (32, 32)
    assert pixels[:, 0].max() < 30


def test_cached_logits_are_the_models_own(siglip: Encoder, work: Path) -> None:
    saved = head(work, "zero-shot")
    task = cafe.load_task(cafe.FeatureCache.open(work / "cache/shapes/siglip.local.h5"))
    paths = sorted((work / "images/test").iterdir(), key=lambda path: int(path.stem))
    pixels = np.stack([siglip.preprocess.pixels(Image.open(p).convert("RGB")) for p in paths])
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        own, _ = siglip._network.get_logits(x, siglip.token_ids(["a disc.", "a square."]))
    ours = saved.head.logits(task.splits["test"].x)
    torch.testing.assert_close(ours, own, atol=1e-3, rtol=0)
    scores = saved.scores(task.splits["test"].x)
    assert scores is not None
    torch.testing.assert_close(scores, torch.sigmoid(own), atol=1e-3, rtol=0)


def test_heads_that_leave_the_cosine_have_no_scores(work: Path) -> None:
    has = {name: head(work, name).has_scores for name in ("zero-shot", "clip-adapter", "taskres")}
    assert all(has.values()), has
    for name in ("nearest-class", "gda", "knn"):
        assert not head(work, name).has_scores
        assert head(work, name).scores(torch.ones(2, 32)) is None


def test_predict_shows_both(run: Run, folder: Path) -> None:
    words = ["runs/mine", "images/test", "--model", folder, "--method", "clip-adapter", "--explain"]
    found = [
        json.loads(line) for line in run("predict", *words, "--format", "jsonl").out.splitlines()
    ]
    saved = head(Path(), "clip-adapter")
    task = cafe.load_task(cafe.FeatureCache.open("cache/shapes/siglip.local.h5"))
    scores = saved.scores(task.splits["test"].x)
    assert scores is not None
    place = {Path(one["image"]).stem: one for one in found}
    for row, expected in enumerate(scores):
        one = place[str(row)]
        best = saved.class_names.index(one["label"])
        assert one["score"] == pytest.approx(expected[best].item(), abs=1e-4)
        assert one["top"][0].keys() == {"label", "probability", "score"}
        assert one["zero_shot"].keys() == {"label", "probability", "score"}
    table = run("predict", *words).out
    assert "% alone" in table
    rows = list(csv.reader(io.StringIO(run("predict", *words, "--format", "csv").out)))
    assert rows[0][:7] == [
        "image",
        "label",
        "probability",
        "score",
        "label_2",
        "probability_2",
        "score_2",
    ]
    assert {len(row) for row in rows} == {len(rows[0])}
    without = run("predict", *words[:4], "--method", "gda", "--format", "jsonl").out.splitlines()
    assert "score" not in json.loads(without[0])


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_from_pixels_to_scores(run: Run, folder: Path, tmp_path: Path, form: Any) -> None:
    if form == "onnx":
        for name in graphs.ONNX_PACKAGES:
            pytest.importorskip(name)
    made = cafe.export_head(
        "runs/mine",
        form,
        output=tmp_path / "whole",
        with_encoder=True,
        images="images/test",
        method="clip-adapter",
        model=str(folder),
    )
    assert made.difference < 1e-4
    predictor = cafe.Predictor.load(
        "runs/mine", method="clip-adapter", model=str(folder), device="cpu"
    )
    (expected,) = predictor.predict("images/test/0.png", top=2)
    pixels = predictor.encoder.preprocess.pixels(Image.open("images/test/0.png").convert("RGB"))
    rows = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].repeat(3, 1, 1, 1).contiguous()
    give = graphs.run_torch if form == "torch" else graphs.run_onnx
    probabilities, scores = give(made.path, rows)
    best = int(probabilities[0].argmax())
    assert predictor.saved.class_names[best] == expected.label
    assert scores[0, best].item() == pytest.approx(expected.score, abs=1e-4)
    card = made.card.read_text()
    assert "probabilities, scores" in card
    assert "judge each class alone" in card
    assert "both sides fit" in card


def test_a_token_is_what_the_pool_makes_of_it_alone(siglip: Encoder) -> None:
    visual = siglip._network.visual
    x = siglip.standardized(torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8))
    with torch.no_grad():
        found = visual.trunk.forward_features(x)  # (2, 16, 32)
        alone = torch.stack([visual.trunk.forward_head(found[:, [t]]) for t in range(16)], 1)
        features, tokens = encode_with_map(siglip._network, x, 7)
        assert torch.equal(features, siglip._network.encode_image(x))
    assert tokens.shape == (2, 16, 32)
    torch.testing.assert_close(tokens, alone)


def test_a_report(run: Run, tmp_path: Path) -> None:
    answer = run("report", "runs/mine", "-o", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_the_only_published_weights_are_the_default() -> None:
    assert default_pretrained("ViT-B-16-SigLIP2-256") == "webli"
    assert encoder_names("ViT-B-16-SigLIP", None) == ("ViT-B-16-SigLIP", "webli")
    assert default_pretrained("RN50") == "openai"
    assert default_pretrained("no-such-model") == "openai"


def test_a_checkpoint_file_gets_the_published_preprocess(tmp_path: Path) -> None:
    (tmp_path / "copy.safetensors").touch()
    for tag in (str(tmp_path / "copy.safetensors"), "none"):
        published = locate("ViT-B-16-SigLIP", tag).published
        assert (published["resize_mode"], published["mean"]) == ("squash", (0.5, 0.5, 0.5))
        assert locate("ViT-L-14", tag).published == {}  # published with several


@pytest.fixture
def no_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("weights were fetched before the tokenizer was checked")

    monkeypatch.setattr("cafe.encoders.hub.fetch_checkpoint", fail)


def test_without_transformers(
    folder: Path, no_fetch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "PACKAGE", "no_such_package")
    for model in (str(folder), "ViT-B-16-SigLIP2"):
        with pytest.raises(
            WeightsError, match=r"needs the package .*: pip install no_such_package"
        ):
            load_encoder(model, device="cpu", precision="fp32")


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(SIGLIP))
    with pytest.raises(
        WeightsError, match=r"has no tokenizer; copy the files of timm/ViT-B-16-Sig"
    ):
        load_encoder(str(tmp_path), "none", device="cpu", precision="fp32")


def test_a_tokenizer_that_cannot_be_fetched(no_hub: None) -> None:
    with pytest.raises(
        WeightsError, match=r"tokenizer of 'ViT-B-16-SigLIP' is not on this.*folder"
    ):
        tokenizer.load_tokenizer("ViT-B-16-SigLIP", "ViT-B-16-SigLIP")


def test_a_tokenizer_that_cannot_pad(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("Asking to pad but the tokenizer does not have a padding token")

    monkeypatch.setattr(Words, "__call__", fail)
    with pytest.raises(WeightsError, match=r"tokenizer of .* cannot be set up \(Asking to pad"):
        load_encoder(str(folder), device="cpu", precision="fp32")


def test_a_tokenizer_that_lacks_a_package(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("\nT5Converter requires the SentencePiece library")

    monkeypatch.setattr(Words, "from_pretrained", fail)
    with pytest.raises(
        WeightsError, match=r"missing \(T5Converter .*\): pip install transformers s"
    ):
        load_encoder(str(folder), device="cpu", precision="fp32")
