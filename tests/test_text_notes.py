"""Sentences that an encoder cuts, and classes that it reads alike: said before it encodes."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_run import call
from making import make_dataset
from torch import Tensor

import cafe
from cafe.encoders.encoder import Encoder
from cafe.encoders.tokenizer import load_tokenizer, places_cut
from cafe.errors import InputError
from cafe.extract.extract import extract
from cafe.extract.text_notes import text_notes

CONTEXT = 16  # of the tiny encoder: the start, 14 words, the end


def notes(encoder: Encoder, **sentences: list[str]) -> list[str]:
    return list(text_notes(encoder, list(sentences), list(sentences.values())))


class TestCut:
    @pytest.mark.parametrize(("words", "cut"), [(1, []), (13, []), (14, []), (15, [0]), (90, [0])])
    def test_a_sentence_of_so_many_tokens(self, tiny: Encoder, words: int, cut: list[int]) -> None:
        sentences = ["cat " * words, "a dog"]
        assert tiny.places_cut(sentences, tiny.token_ids(sentences)) == cut

    @pytest.mark.parametrize(("words", "cut"), [(74, False), (75, False), (76, True)])
    def test_clip_reads_77(self, words: int, cut: bool) -> None:
        tokenizer = load_tokenizer("ViT-B-32", "ViT-B-32")
        sentences = ["a cat", "cat " * words]
        token_ids = tokenizer(sentences)
        assert token_ids.shape == (2, 77)
        assert places_cut(tokenizer, sentences, token_ids) == ([1] if cut else [])

    @pytest.mark.parametrize("padding", [0, 1])  # SigLIP pads with the token that ends a sentence
    @pytest.mark.parametrize(("words", "cut"), [(2, []), (62, []), (63, []), (64, [1]), (80, [1])])
    def test_siglip_reads_64(self, padding: int, words: int, cut: list[int]) -> None:
        def tokenizer(sentences: list[str], context_length: int = 64) -> Tensor:
            rows = [[7] * min(len(s.split()), context_length - 1) + [1] for s in sentences]
            return torch.tensor([row + [padding] * (context_length - len(row)) for row in rows])

        sentences = ["a cat", "cat " * words]
        assert places_cut(tokenizer, sentences, tokenizer(sentences)) == cut

    def test_it_is_counted_and_the_first_is_named(self, tiny: Encoder) -> None:
        long = "cat " * 20
        found = notes(tiny, disc=["a disc"], square=["a square", long], star=[long, long + "b"])
        assert found == [
            "3 of 5 sentences, of 2 classes, are longer than the 16 tokens that tiny reads and are "
            "cut; the first is of 'square': shorten them."
        ]

    def test_nothing_is_said_of_short_ones(self, tiny: Encoder) -> None:
        assert notes(tiny, disc=["a disc"], square=["a square"]) == []


NFD = unicodedata.normalize("NFD", "café")
SAME: dict[str, tuple[dict[str, list[str]], str]] = {
    "cut": (
        {"a": ["cat " * 20 + "a"], "b": ["cat " * 20 + "b"]},
        "what tells them apart is cut",
    ),
    "one name": ({"crane": ["a crane"], "crane ": ["a crane"]}, "their sentences are equal"),
    "order": ({"a": ["one", "two"], "b": ["two", "one"]}, "their sentences are equal"),
    "capitals": ({"A": ["a Cat"], "b": ["a cat"]}, "it ignores in what they differ"),
    "accents": ({"a": ["a café"], "b": [f"a {NFD}"]}, "it ignores in what they differ"),
    "spaces": ({"a": ["a  cat"], "b": ["a cat "]}, "it ignores in what they differ"),
}


@pytest.mark.parametrize("kind", SAME)
def test_classes_that_are_read_alike(tiny: Encoder, kind: str) -> None:
    sentences, why = SAME[kind]
    last = notes(tiny, other=["another"], **sentences)[-1]
    names = ", ".join(repr(name) for name in sentences)
    assert last.startswith(f"classes 1, 2 ({names}) have the same text for tiny ({why}")


def test_an_extraction_says_it_once(tiny: Encoder, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images", {"train": 4, "test": 4})
    told: list[str] = []
    sentences = [["a thing " * 9 + "disc"], ["a thing " * 9 + "square"]]
    path = tmp_path / "cache/shapes/tiny.none.h5"
    extract(dataset, tiny, path, sentences=sentences, note=told.append)
    assert [line.split(" ", 1)[0] for line in told] == ["2", "classes"]
    extract(dataset, tiny, path, sentences=sentences, note=told.append)  # it is there
    assert len(told) == 2
    with pytest.raises(InputError, match=r"classes 0 'disc', 1 'square' of shapes have equal"):
        cafe.fit(path, shots=1, seeds=1, method="zero-shot", runs=None)
    fitted = cafe.fit(path, shots=1, seeds=1, method="knn", runs=None)
    assert [result.method for result in fitted.results] == ["nearest-class", "knn"]


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "unknown": ({"disc": ["a"], "square": ["b"], "star": ["c"]}, "unknown class 'star'"),
    "missing": ({"disc": ["a"]}, "no sentences for 'square'"),
    "empty list": ({"disc": [], "square": ["b"]}, "'disc' needs a list of sentences"),
    "empty": ({"disc": ["a", " "], "square": ["b"]}, "'disc' needs a list of sentences"),
    "numbers": ({"disc": [1], "square": ["b"]}, "'disc' needs a list of sentences"),
    "null": ({"disc": None, "square": ["b"]}, "'disc' needs a list of sentences"),
    "twice": ({"disc": ["a"], "disc ": ["c"], "square": ["b"]}, "names 'disc' twice"),
    "list": (["a", "b"], 'is not {"class name"'),
}


@pytest.mark.parametrize("kind", BAD_PROMPTS)
def test_prompts_that_do_not_fit(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, message = BAD_PROMPTS[kind]
    for name in ("disc", "square"):
        make_dataset(tmp_path / "d" / name, {"x": 2})
    (tmp_path / "p.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "d", "--model", "nano", "--prompts", "p.json"]
    answer = call(monkeypatch, capsys, "extract", *words)
    assert answer.code != 0
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "cache").exists()
