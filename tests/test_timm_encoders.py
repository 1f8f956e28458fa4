"""Encoders of images alone: timm's models, their own preparation, and weights of any origin."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import draw_image
from safetensors.torch import save_file

from cafe.compat import import_timm
from cafe.encoders import preprocess as preprocess_module
from cafe.encoders import quick_resize, timm_models
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.preprocess import Preprocess
from cafe.encoders.timm_steps import timm_steps
from cafe.encoders.weights import encoder_names
from cafe.errors import InputError, UnknownNameError, WeightsError

NAME = "timm:test_vit"


def untrained(name: str = NAME) -> Encoder:
    return load_encoder(name, "none", device="cpu", precision="fp32")


@pytest.mark.parametrize("size", [(200, 170), (90, 300)])
def test_an_image_is_prepared_as_timm_prepares_it(size: tuple[int, int]) -> None:
    encoder, image, timm = untrained(), draw_image(3, size), import_timm()
    trunk = encoder._network.visual
    config = timm.data.resolve_model_data_config(trunk)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    pixels = torch.from_numpy(encoder.preprocess.pixels(image).copy())[None]
    torch.testing.assert_close(encoder.standardized(pixels)[0], expected, atol=1e-5, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode_pixels(pixels), trunk(expected[None]))


@pytest.mark.parametrize("way", ["built", "plain", "cropped first"])
def test_an_oblong_is_prepared_as_timm_prepares_it(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**untrained().preprocess.config, "size": (40, 30), "interpolation": "bilinear"}
    image = draw_image(3, (200, 170))
    expected = image
    for step in timm_steps(config)[:2]:  # resize, crop
        expected = step(expected)
    if way == "built":
        quick_resize.build_quick_resize(quick_resize.WORTH)
    else:
        monkeypatch.setattr(quick_resize, "_library", lambda: None)
    if way == "cropped first":
        monkeypatch.setattr(preprocess_module, "_MOST_RESIZED", 0)
    assert np.array_equal(Preprocess(config).pixels(image), np.asarray(expected))


def test_untrained_weights_are_the_same_every_time() -> None:
    one, other = untrained(), untrained()
    assert one.key() == other.key()
    assert (one.model, one.pretrained, one.has_text) == (NAME, "none", False)
    with pytest.raises(InputError, match="has no text tower"):
        one.encode_text(["a photo"])


def test_weights_come_from_a_file_or_from_the_hub(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "mine.safetensors"
    state = import_timm().create_model("test_vit", pretrained=False).state_dict()
    save_file(state, file)  # with the classifier, which is left out
    own = load_encoder(NAME, str(file), device="cpu", precision="fp32")
    assert own.pretrained == "mine"
    assert own.weights_sha256 != untrained().weights_sha256
    monkeypatch.setattr(timm_models, "_download", lambda _: file)
    fetched = load_encoder(f"{NAME}.r160_in1k", device="cpu", precision="fp32")
    assert (fetched.pretrained, fetched.weights_sha256) == ("r160_in1k", own.weights_sha256)
    pixels = torch.from_numpy(np.zeros((1, 160, 160, 3), np.uint8))
    assert torch.equal(fetched.encode_pixels(pixels), own.encode_pixels(pixels))


def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="is no checkpoint of timm:test_vit"):
        load_encoder(NAME, str(tmp_path / "x.safetensors"))
    with pytest.raises(UnknownNameError, match="test_vit"):
        load_encoder("timm:test_vut", "none")
    with pytest.raises(UnknownNameError, match="r160_in1k"):
        load_encoder(NAME, "r160_in2k")


def test_names_of_a_cache() -> None:
    assert encoder_names(f"{NAME}.r160_in1k", None) == ("timm-test_vit", "r160_in1k")
    assert encoder_names(NAME, "none") == ("timm-test_vit", "none")
