"""Fast parts of image towers: as exact as open_clip's own, and only where they compute the same."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cafe.compat import import_open_clip
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.fast_blocks import LEAST_WIDTH, FastBlock, quicken
from cafe.encoders.projection import encode_both
from cafe.encoders.spatial import encode_spatial

SIZE = 35  # not a multiple of a patch: the convolution leaves the rest out
IMAGES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).bfloat16()

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_towers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' towers are small, and those are left alone."""
    monkeypatch.setattr("cafe.encoders.fast_blocks.LEAST_WIDTH", 0)


def tower(heads: int = 2, **options: Any) -> Any:
    """A small untrained image tower, float32; its weights are large, so that all of it matters."""
    parts = import_open_clip().transformer
    if options.pop("quick", False):
        options["act_layer"] = parts.QuickGELU
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "patch_size": 16, "width": 64, "output_dim": 24, "mlp_ratio": 4}
    made = parts.VisionTransformer(layers=3, heads=heads, **sizes, **options).eval()
    for name, value in made.requires_grad_(False).named_parameters():
        if "resblocks" in name:
            value.add_(0.3 * torch.randn(value.shape))
    return made


def quickened(visual: Any) -> bool:
    """Put fast parts into an image tower alone; whether it has them then."""
    network = SimpleNamespace(visual=visual, encode_image=visual)
    return quicken(network, (SIZE, SIZE)) == {"image"}


def features(visual: Any) -> Tensor:
    found: Tensor = visual(IMAGES.to(visual.conv1.weight.dtype))
    return found.double()


@pytest.mark.parametrize("quick", [True, False])
def test_features_are_as_exact_as_open_clips(quick: bool) -> None:
    exact, low = tower(quick=quick), tower(quick=quick).bfloat16()
    own = copy.deepcopy(low)
    assert quickened(low)
    assert isinstance(low.transformer.resblocks[0], FastBlock)
    wanted, fast, plain = map(features, (exact, low, own))
    assert 0 < (fast - wanted).norm() < 1.3 * (plain - wanted).norm()
    other = features(tower(quick=quick, heads=4))
    assert (fast - other).norm() > 3 * (plain - wanted).norm()  # the comparison can fail


def test_the_gain_of_quick_gelu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    block = tower(quick=True).bfloat16().transformer.resblocks[0]
    x = torch.randn(4, 5, 64).bfloat16()
    expected = block(x)
    close = (FastBlock(copy.deepcopy(block))(x) - expected).norm()
    monkeypatch.setattr("cafe.encoders.fast_blocks.QUICK_GAIN", 0.1)
    assert (FastBlock(block)(x) - expected).norm() > 3 * close


def test_small_towers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cafe.encoders.fast_blocks.LEAST_WIDTH", 65)
    assert not quickened(tower().bfloat16())
    assert LEAST_WIDTH > 32  # the text tower of `nano`


@pytest.mark.parametrize("options", [{"ls_init_value": 0.1}, {"act_layer": torch.nn.SiLU}])
def test_other_blocks_stay_as_they_are(options: dict[str, Any]) -> None:
    low = tower(**options).bfloat16()
    expected = features(low)
    assert not quickened(low)
    assert torch.equal(features(low), expected)


@pytest.mark.parametrize("trouble", ["other features", "no oneDNN for it", "no oneDNN"])
def test_parts_that_disagree_are_taken_out_again(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_: FastBlock, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if trouble == "other features":
            return x.roll(1, 1)
        if trouble == "no oneDNN":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")
        raise RuntimeError("mkldnn_linear: bf16 path needs the cpu support avx512")

    monkeypatch.setattr(FastBlock, "forward", forward)
    low = tower().bfloat16()
    expected = features(low)
    assert not quickened(low)
    torch.testing.assert_close(features(low), expected, rtol=0.02, atol=0.02)  # layouts differ


def test_an_encoder_has_them_in_bf16(tiny_folder: Path, tiny: Encoder) -> None:
    half = load_encoder(str(tiny_folder), device="cpu", precision="bf16")
    networks = half._network, tiny._network
    for low, wide in (
        [network.transformer.resblocks[0] for network in networks],
        [network.visual.transformer.resblocks[0] for network in networks],
    ):
        assert type(low) is FastBlock is not type(wide)
    assert half.weights_sha256 == tiny.weights_sha256
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    alone = half.encode_pixels(pixels)
    assert torch.equal(encode_both(half, pixels).features, alone)
    assert torch.equal(encode_spatial(half, pixels, 7).features, alone)


def test_sentences_are_causal_still(tiny_folder: Path, tiny: Encoder) -> None:
    half = load_encoder(str(tiny_folder), device="cpu", precision="bf16")
    sentences = ["a disc.", "a photo of a red square."]
    wanted, low = tiny.encode_text(sentences), half.encode_text(sentences)
    torch.testing.assert_close(low, wanted, rtol=0.1, atol=0.02)
    ids = half.token_ids(sentences)
    network = half._network
    tokens = network.token_embedding(ids).bfloat16()
    other = torch.cat([tokens[:, :5], tokens[:, 5:].flip(0)], dim=1)  # the future exchanged
    seen, unseen = (network.transformer(x, attn_mask=network.attn_mask) for x in (tokens, other))
    assert torch.equal(seen[:, :5], unseen[:, :5])
    assert not torch.equal(seen[:, 5:], unseen[:, 5:])
