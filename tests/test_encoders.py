"""Encoders from every source: built in, published, local; right weights or a clear error."""

import copy
import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from making import TINY, draw_image
from safetensors.torch import load_file, save_file

from cafe.compat import import_open_clip
from cafe.devices import resolve_precision
from cafe.encoders import encoder as encoders
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.weights import NANO, encoder_names
from cafe.errors import DeviceError, InputError, UnknownNameError, WeightsError
from cafe.store.files import digest_of_file

SENTENCES = ["a disc.", "a square.", "a much longer sentence than the context can hold, " * 5]


def load(model: str, pretrained: str | None = None, **options: str) -> Encoder:
    return load_encoder(model, pretrained, **{"device": "cpu", "precision": "fp32", **options})


def pixels(encoder: Encoder, count: int = 4) -> torch.Tensor:
    views = [torch.tensor(encoder.preprocess.pixels(draw_image(n))) for n in range(count)]
    return torch.stack(views)


def test_a_local_folder_is_an_encoder(tiny_folder: Path, tiny: Encoder) -> None:
    assert (tiny.model, tiny.pretrained, tiny.width) == ("tiny", "local", 16)
    assert tiny.weights_sha256 == digest_of_file(tiny_folder / "open_clip_model.safetensors")
    assert tiny.preprocess.config["mean"] == [0.5, 0.4, 0.3]
    features = tiny.encode_pixels(pixels(tiny))
    assert (features.shape, features.dtype, features.device.type) == ((4, 16), torch.float32, "cpu")
    assert tiny.encode_text(SENTENCES).shape == (3, 16)
    assert not features.requires_grad


def test_features_are_raw(tiny: Encoder) -> None:
    norms = tiny.encode_pixels(pixels(tiny)).norm(dim=-1)
    assert not torch.allclose(norms, torch.ones(4), atol=0.05)


@pytest.mark.parametrize("count", [0, 3])
def test_pixels_are_standardized_as_the_preprocess_says(tiny: Encoder, count: int) -> None:
    images = pixels(tiny)[:count]
    mean, std = (torch.tensor(tiny.preprocess.config[name]) for name in ("mean", "std"))
    expected = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    found = tiny.standardized(images)
    assert torch.equal(found, expected)
    assert count == 0 or found.is_contiguous(memory_format=torch.channels_last)


def test_text_in_batches_is_text_at_once(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny.encode_text(SENTENCES)
    monkeypatch.setattr(encoders, "_SENTENCES_PER_BATCH", 2)
    torch.testing.assert_close(tiny.encode_text(SENTENCES), whole)


def test_a_local_configuration_with_a_local_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "my-arch.json"
    config.write_text(json.dumps(TINY["model_cfg"]))
    weights = tiny_folder / "open_clip_model.safetensors"
    encoder = load(str(config), str(weights))
    assert (encoder.model, encoder.pretrained) == ("my-arch", "open_clip_model")
    assert encoder_names(str(config), str(weights)) == ("my-arch", "open_clip_model")
    assert encoder.weights_sha256 == digest_of_file(weights)
    again = load(str(config), str(weights))
    assert torch.equal(again.encode_text(SENTENCES), encoder.encode_text(SENTENCES))


def test_a_pytorch_checkpoint_of_tensors(tiny_folder: Path, tiny: Encoder, tmp_path: Path) -> None:
    state = load_file(tiny_folder / "open_clip_model.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "x.pt")
    encoder = load(str(tiny_folder), str(tmp_path / "x.pt"))
    assert torch.equal(encoder.encode_text(SENTENCES), tiny.encode_text(SENTENCES))


def test_a_damaged_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    state = load_file(tiny_folder / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"no checkpoint of tiny \(its part '.*' does not have"):
        load(str(tiny_folder), str(tmp_path / "x.pt"))


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code of a checkpoint ran')",)


def test_a_checkpoint_cannot_run_code(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save({"logit_scale": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"'.*evil\.pt' is no checkpoint of tiny"):
        load(str(tiny_folder), str(tmp_path / "evil.pt"))


@pytest.mark.parametrize("kind", ["other shape", "empty", "garbage", "text"])
def test_a_wrong_checkpoint(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "wrong.safetensors"
    if kind == "other shape":
        state = load_file(tiny_folder / "open_clip_model.safetensors")
        save_file({**state, "text_projection": torch.zeros(3, 3)}, path)
    elif kind == "empty":
        path.touch()
    elif kind == "garbage":
        path.write_bytes(bytes(range(256)) * 99)
    else:
        path = tmp_path / "wrong.pt"
        path.write_text("no tensors")
    with pytest.raises(
        WeightsError, match=r"is no checkpoint of tiny .*made for this architecture"
    ):
        load(str(tiny_folder), str(path))


def test_untrained_weights_are_the_same_every_time(tiny_folder: Path) -> None:
    state = torch.random.get_rng_state()
    one, two = (load(str(tiny_folder), "none") for _ in range(2))
    assert one.weights_sha256 == two.weights_sha256
    assert torch.equal(one.encode_text(SENTENCES), two.encode_text(SENTENCES))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-23", None, r"unknown model 'ViT-B-23'; did you mean ViT-B-32 .*folder or a JSON"),
        ("nono", None, r"unknown model 'nono'; did you mean nano"),
        ("ViT-B-32", "opnai", r"unknown weights of ViT-B-32 'opnai'; did you mean openai\?"),
        ("ViT-B-32", "missing.pt", r"unknown weights of ViT-B-32 'missing.pt'; .*checkpoint file"),
    ],
)
def test_unknown_names(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load(model, pretrained)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot read the architecture '.*open_clip_config\.json' \(No such file"),
        ("{", r"cannot read the architecture"),
        ("[]", r"describes no model of open_clip; it needs model_cfg"),
        ('{"model_cfg": {"embed_dim": 3}}', r"its 'model_cfg' needs embed_dim, vision_cfg, text_"),
        (
            '{"model_cfg": {"embed_dim": 3, "vision_cfg": {"widht": 3}, "text_cfg": {}}}',
            r"cannot build model '.*bad' \(.*widht.*correct its configuration",
        ),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "bad").mkdir()
    if text is not None:
        (tmp_path / "bad" / "open_clip_config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load(str(tmp_path / "bad"), "none")


def test_a_local_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(TINY))
    with pytest.raises(WeightsError, match=r"no weights at '.*model\.safetensors'.* pretrained="):
        load(str(tmp_path))


def test_a_file_named_like_a_built_in_architecture(tmp_path: Path) -> None:
    config = tmp_path / "ViT-B-32.json"
    config.write_text(json.dumps(TINY["model_cfg"]))
    with pytest.raises(WeightsError, match=r"is named like another architecture.*rename"):
        load(str(config), "none")
    assert import_open_clip().get_model_config("ViT-B-32")["embed_dim"] == 512


def test_a_folder_named_like_a_built_in_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ViT-B-32").mkdir()
    monkeypatch.chdir(tmp_path)
    assert encoder_names("ViT-B-32", None) == ("ViT-B-32", "openai")


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny architecture under a name for which open_clip knows OpenAI's weights."""
    open_clip = import_open_clip()
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "RN50", TINY["model_cfg"])
    return "RN50"


def activations(encoder: Encoder) -> set[str]:
    names = [type(part).__name__ for part in encoder._network.modules()]
    return {name for name in names if "GELU" in name}


def test_published_openai_weights_get_quickgelu_and_their_preprocess(
    built_in: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_folder / "open_clip_model.safetensors"
    monkeypatch.setattr("cafe.encoders.hub.fetch_checkpoint", lambda *_: file)
    encoder = load(built_in, "openai")
    assert activations(encoder) == {"QuickGELU"}
    assert encoder.preprocess.config["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert (encoder.model, encoder.pretrained) == ("RN50", "openai")
    assert activations(load(built_in, "none")) == {"GELU"}
    assert activations(load(built_in, str(file))) == {"GELU"}


def test_a_local_copy_of_openais_file_gets_quickgelu_too(
    built_in: str, tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "RN50.pt"
    network = copy.deepcopy(tiny._network)
    network.attn_mask = None  # which tracing would take for a weight
    example = (torch.zeros(1, 3, 32, 32), tiny.token_ids(["a disc."]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what OpenAI's files are
        trace: Any = torch.jit.trace
        trace(network, example, check_trace=False).save(file)
    with pytest.raises(WeightsError, match="TorchScript"):
        load(built_in, str(file))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    open_clip = import_open_clip()
    described = {**open_clip.get_pretrained_cfg("RN50", "openai"), "url": f"https://x/{sha256}/f"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: described)
    encoder = load(built_in, str(file))
    assert activations(encoder) == {"QuickGELU"}
    assert torch.equal(encoder._network.text_projection, tiny._network.text_projection)


def test_bf16_is_close_to_fp32(tiny_folder: Path, tiny: Encoder) -> None:
    half = load(str(tiny_folder), precision="bf16")
    assert half.precision == "bf16"
    images, text = pixels(tiny, 16), ["a disc.", "a square."]
    for ours, full in (
        (half.encode_pixels(images), tiny.encode_pixels(images)),
        (half.encode_text(text), tiny.encode_text(text)),
    ):
        assert ours.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(ours, full).min() > 0.999


def test_precision_auto_is_what_this_cpu_is_fast_in(tiny_folder: Path) -> None:
    expected = resolve_precision("auto", torch.device("cpu"))
    assert load(str(tiny_folder), precision="auto").precision == expected


def test_fp16_on_a_cpu(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="precision fp16 needs CUDA; use auto, bf16 or fp32"):
        load(str(tiny_folder), precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(tiny_folder: Path) -> None:
    with pytest.raises(DeviceError, match='sees 0 CUDA devices; use device="cpu"'):
        load(str(tiny_folder), device="cuda")


def test_nano_comes_with_cafe() -> None:
    nano = load(NANO)
    assert (nano.model, nano.pretrained) == ("nano", "glyphs")
    assert nano.encode_pixels(pixels(nano)).shape == (4, nano.width)
    assert encoder_names(NANO, None) == ("nano", "glyphs")


def test_names_of_local_encoders(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "other")
    assert encoder_names(str(tmp_path / "other"), None) == ("other", "local")
    assert encoder_names("ViT-B-32", None) == ("ViT-B-32", "openai")
