"""Class name -> sentences, with the source of each template; knows no dataset and no encoder.

A template is a sentence with one `{}` for the class name. A set of templates has a name: that of
the dataset it was written for, "default", or one of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from cafe.datasets.text_files import clean_name, distinct_names, quote, quote_some, read_json
from cafe.errors import InputError, UnknownNameError, is_utf8


class TemplateSet(NamedTuple):
    """Templates that belong together.

    Attributes
    ----------
    templates : tuple of str
        Each with one `{}`.
    source : str
        Who wrote them.
    """

    templates: tuple[str, ...]
    source: str


def _read_sets() -> dict[str, TemplateSet]:
    text = files("cafe.datasets").joinpath("templates.json").read_text(encoding="utf-8")
    return {
        name: TemplateSet(tuple(templates), source)
        for source, sets in json.loads(text).items()
        for name, templates in sets.items()
    }


TEMPLATE_SETS: Mapping[str, TemplateSet] = _read_sets()
"""Sets by name; `templates.json` lists them under their sources."""


def templates_for(name: str) -> tuple[str, ...]:
    """Look a set of templates up.

    Parameters
    ----------
    name : str
        A key of `TEMPLATE_SETS`.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in TEMPLATE_SETS:
        raise UnknownNameError("set of templates", name, TEMPLATE_SETS)
    return TEMPLATE_SETS[name].templates


def check_templates(templates: Iterable[str]) -> tuple[str, ...]:
    """Check that each template takes the class name once.

    Parameters
    ----------
    templates : iterable of str
        At least one.

    Returns
    -------
    tuple of str
        The same templates.

    Raises
    ------
    InputError
        If there is none, one is there twice, or one has no `{}` or several.
    """
    checked = tuple([templates] if isinstance(templates, str) else templates)
    if not checked:
        raise InputError("no prompt templates are given; the plainest is 'a photo of a {}.'.")
    for template in checked:
        if template.count("{}") != 1:
            raise InputError(
                f"template {template!r} has {template.count('{}')} places for the class name; "
                "write {} exactly once, as in 'a photo of a {}.'."
            )
        if checked.count(template) > 1:
            raise InputError(f"template {template!r} is given twice; give it once.")
    return checked


def fill(class_names: Sequence[str], templates: Iterable[str]) -> list[list[str]]:
    """Write the sentences of each class.

    Parameters
    ----------
    class_names : sequence of str
        Underscores become spaces. (C,)
    templates : iterable of str
        Each with one `{}`. (P,)

    Returns
    -------
    list of list of str
        Sentences by class, in the order of both arguments. (C, P)
    """
    checked = check_templates(templates)
    # Not str.format: a class may be called "{x}".
    return [[t.replace("{}", name.replace("_", " ")) for t in checked] for name in class_names]


def read_prompts(path: Path, class_names: Sequence[str]) -> list[list[str]]:
    """Read sentences from a JSON file: `{"class name": ["sentence", ...], ...}`.

    Parameters
    ----------
    path : Path
        The file. Underscores in its class names count as spaces. Of classes that share a name each
        may have sentences of its own, under the name with the class's index, as `crane (134)`.
    class_names : sequence of str
        The classes that it must name, all of them and no others. (C,)

    Returns
    -------
    list of list of str
        Sentences by class, in the order of `class_names`; classes may have different numbers.

    Raises
    ------
    InputError
        If it is no such file, or a class is missing, unknown, or without sentences.
    """
    content = read_json(path, InputError)
    if not isinstance(content, dict):
        raise InputError(f'{path} is not {{"class name": ["sentence", ...], ...}}.')
    sentences = {clean_name(name): value for name, value in content.items()}
    if len(sentences) < len(content):
        counts = Counter(map(clean_name, content))
        twice = quote_some(name for name, count in counts.items() if count > 1)
        raise InputError(f"{path} names {twice} twice, as underscores are spaces; keep one.")
    shown, plain = (tuple(map(clean_name, n)) for n in (distinct_names(class_names), class_names))
    keys = [own if own in sentences else name for own, name in zip(shown, plain, strict=True)]
    missing = [name for name in keys if name not in sentences]
    if missing:
        raise InputError(f"{path} has no sentences for {quote_some(missing)}; add them.")
    known = {*shown, *plain}
    for name in sentences:
        if name not in known:
            raise UnknownNameError("class", name, known, f"Take it out of {path}.")
    return [_sentences(sentences[name], name, path) for name in keys]


def _sentences(value: Any, name: str, path: Path) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list) and listed:
        sentences = [text.strip() for text in listed if isinstance(text, str) and text.strip()]
        for text in sentences:
            if "\0" in text or not is_utf8(text):  # of the escapes of JSON
                raise InputError(f"{path}: {quote(text)} of '{name}' is no text that can be kept.")
        if len(sentences) == len(listed):
            return sentences
    raise InputError(f"{path}: '{name}' needs a list of sentences, none of them empty.")
