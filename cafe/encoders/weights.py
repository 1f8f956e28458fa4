"""Where an encoder's architecture and weights come from; builds no model.

Every encoder comes through open_clip and one code path: a built-in architecture with a published
tag, with a local checkpoint or untrained; a folder or a JSON file with a local architecture; and
`nano`, the small CLIP that ships with cafe, which is such a folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cafe.encoders.hub as hub
from cafe.compat import import_open_clip
from cafe.encoders.tokenizer import check_tokenizer
from cafe.errors import UnknownNameError, WeightsError
from cafe.files import digest_of_file

DEFAULT_MODEL, DEFAULT_TAG = "ViT-B-32", "openai"
NANO, NANO_TAG = "nano", "glyphs"
UNTRAINED = "none"
PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


class WeightsSource(NamedTuple):
    """Where an encoder's parts come from, before anything is loaded.

    Attributes
    ----------
    model, pretrained : str
        Names for people and for the key.
    identifier : str
        What open_clip calls the architecture.
    described : mapping
        What is known of published weights: QuickGELU, preprocess.
    weights : Path or None
        The checkpoint; None for untrained weights.
    is_openai_file : bool
        Whether the checkpoint is, by its SHA-256, a file that OpenAI published.
    """

    model: str
    pretrained: str
    identifier: str
    described: Mapping[str, Any]
    weights: Path | None
    is_openai_file: bool = False


def default_pretrained(model: str) -> str:
    """The weights that a model gets when none are named."""
    if model == NANO:
        return NANO_TAG
    if model == DEFAULT_MODEL:
        return DEFAULT_TAG
    return "local" if _is_local(model) else _only_tag(model)


def _only_tag(model: str) -> str:
    """The tag of an architecture that was published with one (SigLIP's), else OpenAI's."""
    tags = import_open_clip().list_pretrained_tags_by_model(model)
    return str(tags[0]) if len(tags) == 1 else DEFAULT_TAG


def encoder_names(model: str, pretrained: str | None) -> tuple[str, str]:
    """Names of an encoder as they appear in a cache's file name, without loading weights."""
    name = Path(model).absolute().stem if _is_local(model) and model != NANO else model
    tag = pretrained or default_pretrained(model)
    return name.replace("/", "-"), Path(tag).stem if Path(tag).is_file() else tag


def absolute_names(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """The same names with files by their full path, for a process of another working directory."""
    local = model != NANO and _is_local(model)
    file = pretrained is not None and Path(pretrained).is_file()
    return (
        str(Path(model).absolute()) if local else model,
        str(Path(str(pretrained)).absolute()) if file else pretrained,
    )


def _is_local(model: str) -> bool:
    """A folder named like an architecture is not meant, unless it holds a configuration."""
    is_path = os.sep in model or "/" in model
    folder = Path(model).is_dir() and (is_path or (Path(model) / CONFIG_FILE).is_file())
    return model == NANO or folder or model.endswith(".json")


def locate(model: str, pretrained: str | None) -> WeightsSource:
    """Find an encoder's parts, downloading published weights that are not on disk.

    Parameters
    ----------
    model, pretrained : str
        As `cafe.encoders.encoder.load_encoder` takes them.

    Raises
    ------
    UnknownNameError
        If open_clip knows no such architecture or tag; the nearest names are suggested.
    WeightsError
        If the weights or a local configuration cannot be had.
    """
    if _is_local(model):
        return _locate_local(model, pretrained)
    open_clip = import_open_clip()
    if model not in open_clip.list_models():
        known = [*open_clip.list_models(), NANO]
        raise UnknownNameError("model", model, known, "Or give a folder or a JSON file.")
    check_tokenizer(model, architecture(model)["text_cfg"])
    tag = pretrained or default_pretrained(model)
    if tag == UNTRAINED:
        return WeightsSource(model, UNTRAINED, model, _shared_preprocess(model), None)
    if Path(tag).is_file():
        return _with_file(model, Path(tag))
    described = open_clip.get_pretrained_cfg(model, tag)
    if not described:
        known = [*open_clip.list_pretrained_tags_by_model(model), UNTRAINED]
        raise UnknownNameError(f"weights of {model}", tag, known, "Or give a checkpoint file.")
    return WeightsSource(model, tag, model, described, hub.weights(described, f"{model} '{tag}'"))


def _with_file(model: str, file: Path) -> WeightsSource:
    """OpenAI's own files are known by their SHA-256, so that a local copy gets QuickGELU too."""
    described: dict[str, Any] = import_open_clip().get_pretrained_cfg(model, DEFAULT_TAG)
    if described and digest_of_file(file) in described.get("url", ""):
        return WeightsSource(model, file.stem, model, described, file, is_openai_file=True)
    return WeightsSource(model, file.stem, model, _shared_preprocess(model), file)


def _shared_preprocess(model: str) -> dict[str, Any]:
    """The preprocess that all published weights of an architecture have; empty if they differ.

    A checkpoint file does not tell its preprocess, and SigLIP's is not OpenAI's: it squashes images
    where OpenAI's crops them.
    """
    open_clip = import_open_clip()
    found = []
    for tag in open_clip.list_pretrained_tags_by_model(model):
        published = open_clip.get_pretrained_cfg(model, tag)
        found.append({part: published[part] for part in PREPROCESS if part in published})
    agree = found and all(other == found[0] for other in found)
    return found[0] if agree else {}


def _locate_local(model: str, pretrained: str | None) -> WeightsSource:
    folder = _nano_folder() if model == NANO else Path(model)
    if model.endswith(".json"):
        folder = Path(model).parent
        identifier = _register(Path(model))
    else:
        _read_config(folder / CONFIG_FILE, ("model_cfg",))
        identifier = f"local-dir:{folder}"
    name, tag = encoder_names(model, pretrained)
    text = architecture(identifier)["text_cfg"]
    check_tokenizer(name, text, None if model.endswith(".json") else folder)
    if pretrained == UNTRAINED:
        return WeightsSource(name, tag, identifier, {}, None)
    own = pretrained is None or (model == NANO and pretrained == NANO_TAG)
    weights = folder / WEIGHTS_FILE if own else Path(str(pretrained))
    if not weights.is_file():
        raise WeightsError(
            f"no weights at '{weights}' for model '{name}'; give --pretrained FILE, or none for "
            "untrained ones."
        )
    return WeightsSource(name, tag, identifier, {}, weights)


def _nano_folder() -> Path:
    spec = importlib.util.find_spec("cafe.encoders.nano")
    if spec is None or spec.origin is None:
        raise WeightsError("cafe's own encoder 'nano' is not installed; reinstall cafe.")
    return Path(spec.origin).parent


def _register(file: Path) -> str:
    """Make a local architecture known to open_clip under its file's name."""
    open_clip = import_open_clip()
    config = _read_config(file, _PARTS)
    known = open_clip.get_model_config(file.stem)
    if known is not None and known != config:
        raise WeightsError(
            f"'{file}' has the name of another architecture of open_clip; rename the file."
        )
    if known is None:
        open_clip.add_model_config(file)
    return file.stem


_PARTS = ("embed_dim", "vision_cfg", "text_cfg")


def _read_config(file: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"cannot read the architecture '{file}' ({reason}); a folder needs an open_clip "
            f"configuration as its {CONFIG_FILE}."
        ) from error
    if not isinstance(config, dict) or not all(part in config for part in parts):
        raise WeightsError(
            f"'{file}' describes no model of open_clip; it needs {', '.join(parts)}."
        )
    return config


def architecture(identifier: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture."""
    config: dict[str, Any] = import_open_clip().get_model_config(identifier)
    if not isinstance(config, dict) or not all(part in config for part in _PARTS):
        raise WeightsError(
            f"'{identifier}' describes no model of open_clip; its 'model_cfg' needs "
            f"{', '.join(_PARTS)}."
        )
    return config
