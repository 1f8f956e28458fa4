"""Sentences: templates, sets, and files of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.datasets import prompts
from cafe.errors import CafeError, InputError, UnknownNameError


@pytest.mark.parametrize("name", prompts.TEMPLATE_SETS)
def test_every_set_is_valid_and_has_a_source(name: str) -> None:
    found = prompts.TEMPLATE_SETS[name]
    assert prompts.check_templates(found.templates) == found.templates
    assert found.source


def test_sets_in_use() -> None:
    assert prompts.templates_for("default") == ("a photo of a {}.",)
    assert prompts.templates_for("dtd") == ("{} texture.",)
    assert prompts.templates_for("food101") == ("a photo of {}, a type of food.",)
    assert len(prompts.templates_for("imagenet-7")) == 7
    with pytest.raises(UnknownNameError, match="did you mean imagenet"):
        prompts.templates_for("imagenet7")


def test_fill() -> None:
    sentences = prompts.fill(["red_fox", "{}"], ["a {}.", "the {}"])
    assert sentences == [["a red fox.", "the red fox"], ["a {}.", "the {}"]]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "no prompt templates"),
        (["a photo"], "'a photo' has 0 places"),
        (["{} and {}"], "'{} and {}' has 2 places"),
        (["a {name}"], "has 0 places"),
        (["a {}", "a {}"], "given twice"),
    ],
)
def test_bad_templates(templates: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        prompts.fill(["a"], templates)


def test_one_template_as_text() -> None:
    assert prompts.check_templates("a {}") == ("a {}",)


def test_sentences_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"dog": "a dog", "red_fox": ["a fox ", "red"]}', encoding="utf-8-sig")
    assert prompts.read_prompts(path, ["red fox", "dog"]) == [["a fox", "red"], ["a dog"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not usable JSON"),
        ("[]", 'is not {"class name"'),
        ('{"a": ["x"]}', "no sentences for 'b'; add them"),
        ("{}", "no sentences for 'a', 'b'"),
        ('{"a": ["x"], "b": ["y"], "bb": ["z"]}', "unknown class 'bb'; did you mean b"),
        ('{"a": [], "b": ["y"]}', "'a' needs a list of sentences"),
        ('{"a": [" "], "b": ["y"]}', "'a' needs a list of sentences"),
        ('{"a": ["x\\u0000"], "b": ["y"]}', "x00' of 'a' is no text"),
        ('{"a": ["x\\ud800"], "b": ["y"]}', "of 'a' is no text"),
        ('{"a": 3, "b": ["y"]}', "'a' needs a list of sentences"),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        prompts.read_prompts(path, ["a", "b"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*p.json"):
        prompts.read_prompts(tmp_path / "p.json", ["a"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_json_gives_sentences_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    try:
        sentences = prompts.read_prompts(path, ["a", "b"])
    except CafeError:
        return
    assert len(sentences) == 2
    assert all(text for listed in sentences for text in listed)
