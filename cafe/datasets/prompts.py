"""Class name -> sentences, with the source of each template; knows no dataset and no encoder.

A template is a sentence with one `{}` for the class name. A set of templates has a name: that of
the dataset it was written for, "default", or one of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cafe.errors import InputError, UnknownNameError

_COOP = "CoOp (arXiv 2109.01134), also used by CLIP-Adapter and Tip-Adapter"


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


TEMPLATE_SETS: Mapping[str, TemplateSet] = {
    "default": TemplateSet(("a photo of a {}.",), "CLIP (arXiv 2103.00020)"),
    "digits": TemplateSet(("a photo of the number {}.", "the digit {}.", "{}"), "cafe"),
    "imagenet": TemplateSet(("a photo of a {}.",), _COOP),
    "caltech101": TemplateSet(("a photo of a {}.",), _COOP),
    "oxford_pets": TemplateSet(("a photo of a {}, a type of pet.",), _COOP),
    "stanford_cars": TemplateSet(("a photo of a {}.",), _COOP),
    "oxford_flowers": TemplateSet(("a photo of a {}, a type of flower.",), _COOP),
    "food101": TemplateSet(("a photo of {}, a type of food.",), _COOP),
    "fgvc_aircraft": TemplateSet(("a photo of a {}, a type of aircraft.",), _COOP),
    "sun397": TemplateSet(("a photo of a {}.",), _COOP),
    "dtd": TemplateSet(("{} texture.",), _COOP),
    "eurosat": TemplateSet(("a centered satellite photo of {}.",), _COOP),
    "ucf101": TemplateSet(("a photo of a person doing {}.",), _COOP),
    "imagenet-7": TemplateSet(
        (
            "itap of a {}.",
            "a bad photo of the {}.",
            "a origami {}.",
            "a photo of the large {}.",
            "a {} in a video game.",
            "art of the {}.",
            "a photo of the small {}.",
        ),
        "seven of CLIP's eighty ImageNet templates, chosen in its prompt engineering notebook",
    ),
}


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
            raise InputError(f"template {template!r} is given twice; once will do.")
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
        The file. Underscores in its class names count as spaces.
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
    content = {_spaced(name): found for name, found in _read_object(path).items()}
    missing = [name for name in class_names if _spaced(name) not in content]
    if missing:
        raise InputError(f"{path} has no sentences for {_some(missing)}; add them.")
    wanted = {_spaced(name): name for name in class_names}
    for name in content:
        if name not in wanted:
            raise UnknownNameError("class", name, wanted, f"Take it out of {path}.")
    return [_sentences(content[_spaced(name)], name, path) for name in class_names]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read the prompts in {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} is not {{"class name": ["sentence", ...], ...}}.')
    return content


def _sentences(found: Any, name: str, path: Path) -> list[str]:
    listed = [found] if isinstance(found, str) else found
    if isinstance(listed, list) and listed:
        sentences = [text.strip() for text in listed if isinstance(text, str) and text.strip()]
        if len(sentences) == len(listed):
            return sentences
    raise InputError(f"{path}: '{name}' needs a list of sentences, none of them empty.")


def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" * (len(names) > 3))
