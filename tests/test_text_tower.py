"""A text tower on token embeddings says what the encoder says of the sentences."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from making import TINY, make_block, make_header

from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.text_tower import EncoderTower, load_tower
from cafe.errors import CacheMismatchError, CafeError, InputError, WeightsError
from cafe.methods.prompt_learning.prompts import Prompts
from cafe.store import FeatureCache, write_cache

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCES = ["a photo of a cat.", "yahoo!", "a much longer sentence about two dogs and a cow"]
COCA = {
    "custom_text": True,
    "multimodal_cfg": {"width": 16, "heads": 2, "layers": 1, "vocab_size": 49408},
}

# changes of text_cfg and of the whole, and whether places behind the end can be left out
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "clip": ({}, {}, True),
    "quick-gelu": ({"layers": 2}, {"quick_gelu": True}, True),
    "own-tower": ({"layers": 2}, {"custom_text": True}, True),
    "custom-blocks": ({"qk_norm": True, "scale_attn": True}, {"custom_text": True}, True),
    "end-by-id": ({"pool_type": "eos", "eos_id": 49407}, {"custom_text": True}, True),
    "no-projection": ({"proj_type": "none"}, {"custom_text": True}, True),
    "siglip": (
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        {"custom_text": True, "init_logit_bias": -10},
        False,
    ),
    "coca": ({"embed_cls": True, "output_tokens": True}, COCA, False),
}


def make_encoder(folder: Path, kind: str) -> Encoder:
    """An untrained encoder of a kind of text tower."""
    config: dict[str, Any] = copy.deepcopy(TINY)
    text, whole, _ = KINDS[kind]
    config["model_cfg"]["text_cfg"].update(text)
    config["model_cfg"].update(whole)
    if kind == "coca":
        config["model_cfg"]["vision_cfg"].update(attentional_pool=True, output_tokens=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return load_encoder(str(folder), "none", device="cpu", precision="fp32")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_encode_text(tmp_path: Path, kind: str) -> None:
    encoder = make_encoder(tmp_path, kind)
    tower, expected = EncoderTower(encoder), encoder.encode_text(SENTENCES)
    whole = tower.tokens(SENTENCES)
    tokens = tower.trim(whole)
    assert (tokens.shape[1] < whole.shape[1]) == KINDS[kind][2]
    embeddings = tower.look_up(tokens).requires_grad_()
    features = tower.encode(embeddings, tokens)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(features.square().sum(), [embeddings])
    moved = gradient.abs().amax(dim=-1) > 0  # (n, L): SigLIP reads the padding too
    assert moved[:, 1].all()
    if KINDS[kind][2]:
        ends = tokens.argmax(dim=-1)
        assert all(not row[end + 1 :].any() for row, end in zip(moved, ends, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_words_in_the_place_of_a_context_are_the_sentence(tmp_path: Path, kind: str) -> None:
    encoder = make_encoder(tmp_path, kind)
    names = ("cat", "sea_lion", "yahoo!")
    prompts = Prompts(EncoderTower(encoder), names, "a hi-res photo of", torch.device("cpu"))
    assert prompts.words is not None
    found = prompts.features(prompts.words[None, None])[0]
    sentences = [f"a hi-res photo of {name.replace('_', ' ')}." for name in names]
    torch.testing.assert_close(found, encoder.encode_text(sentences), atol=1e-6, rtol=1e-5)


def test_prompts_that_are_computed_twice_have_the_same_gradient(tiny: Encoder) -> None:
    prompts = Prompts(EncoderTower(tiny), ("cat", "dog", "cow"), 3, torch.device("cpu"))
    contexts = torch.randn(2, 1, *prompts.shape, requires_grad=True)
    found = []
    for block in (None, 4):
        features = prompts.features(contexts, block)
        found.append((features, *torch.autograd.grad(features.sin().sum(), [contexts])))
    torch.testing.assert_close(found[0], found[1])


class Foreign(torch.nn.Module):
    """A network whose text tower shows its embeddings as Hugging Face's do, or not at all."""

    def __init__(self, table: torch.nn.Module) -> None:
        super().__init__()
        self.table = table
        shown = SimpleNamespace(get_input_embeddings=lambda: table)
        self.text = SimpleNamespace(transformer=shown)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table(tokens)
        return found.mean(dim=1)


def test_towers_of_another_make(tiny: Encoder) -> None:
    foreign = replace(tiny, _network=Foreign(torch.nn.Embedding(49408, 16)))
    tower = EncoderTower(foreign)
    tokens = tower.trim(tower.tokens(SENTENCES))
    embeddings = tower.look_up(tokens)
    torch.testing.assert_close(tower.encode(embeddings, tokens), foreign.encode_text(SENTENCES))
    moved = tower.encode(embeddings + 1, tokens)
    torch.testing.assert_close(moved, foreign.encode_text(SENTENCES) + 1)
    with pytest.raises(InputError, match="'tiny' has no token embedding"):
        EncoderTower(replace(tiny, _network=Foreign(torch.nn.Linear(2, 2))))


def write_tiny_cache(
    path: Path, encoder: Encoder, weights: str | None = "", named: tuple[str, str] | None = None
) -> FeatureCache:
    """A cache of noise that says it was made with an encoder, or with other weights, or names."""
    key = {
        "weights_sha256": encoder.weights_sha256 if weights == "" else weights,
        "architecture_sha256": encoder.architecture_sha256,
    }
    model, pretrained = named or (encoder.model, encoder.pretrained)
    header = make_header(width=16, key=key, model=model, pretrained=pretrained)
    splits = {"train": [make_block(12, 16)], "test": [make_block(6, 16, start=12)]}
    write_cache(path, header, splits)
    return FeatureCache.open(path)


def test_the_cache_s_encoder_is_found_or_asked_for(tmp_path: Path, tiny_folder: Path) -> None:
    encoder = load_encoder(str(tiny_folder), device="cpu", precision="fp32")
    cache = write_tiny_cache(tmp_path / "noise/tiny.local.h5", encoder)
    with pytest.raises(WeightsError, match=r"of the cache .*, 'tiny' .* name that with model= and"):
        load_tower(cache)
    tower = load_tower(cache, str(tiny_folder), device="cpu")
    assert tower.width == 16
    other = write_tiny_cache(tmp_path / "noise/other.h5", encoder, weights="0" * 64)
    with pytest.raises(CacheMismatchError, match=r"not the encoder of the cache .* other weights"):
        load_tower(other, str(tiny_folder))
    imported = write_tiny_cache(tmp_path / "noise/imported.h5", encoder, weights=None)
    with pytest.raises(InputError, match="its features were imported"):
        load_tower(imported, str(tiny_folder))


def test_weights_that_cannot_be_had(tmp_path: Path, tiny: Encoder, no_hub: None) -> None:
    named = "ViT-B-32", "laion2b_s34b_b79k"
    cache = write_tiny_cache(tmp_path / "noise/big.h5", tiny, named=named)
    with pytest.raises(WeightsError, match="is not on this machine") as caught:
        load_tower(cache)
    assert "\n" not in str(caught.value)
    assert "model=" in str(caught.value)


def test_low_precision_is_refused(tiny_folder: Path) -> None:
    encoder = load_encoder(str(tiny_folder), device="cpu", precision="bf16")
    with pytest.raises(CafeError, match="learned in fp32 and this encoder is in bf16"):
        EncoderTower(encoder)
