"""Where an encoder's architecture and weights come from; builds no model.

open_clip builds every encoder. Its architecture is built-in, with published, local or untrained
weights, or it is local: a folder or a JSON file. `nano`, the small CLIP that ships with cafe, is
such a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cafe.encoders.hub as hub
from cafe.compat import import_open_clip, import_timm
from cafe.encoders.tokenizer import check_tokenizer
from cafe.errors import UnknownNameError, WeightsError, raise_as
from cafe.store.files import check_archive, digest_of_file, is_archive

DEFAULT_MODEL, DEFAULT_TAG = "ViT-B-32", "openai"
NANO, NANO_TAG = "nano", "glyphs"
UNTRAINED = "none"
TIMM = "timm:"
"""Before the name of an encoder of images alone, one of timm's."""
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
    published : mapping
        open_clip's entry of published weights: QuickGELU, preprocess. May be empty.
    weights : Path or None
        The checkpoint; None for untrained weights.
    is_openai_file : bool
        Whether the checkpoint has the SHA-256 of a file that OpenAI published.
    """

    model: str
    pretrained: str
    identifier: str
    published: Mapping[str, Any]
    weights: Path | None
    is_openai_file: bool = False

    def check_checksums(self) -> None:
        """Refuse a PyTorch file that is damaged: torch compares no checksum of it.

        Raises
        ------
        ValueError
            With the reason.
        """
        if self.weights and is_archive(self.weights) and not self.is_openai_file:
            check_archive(self.weights)


def default_pretrained(model: str) -> str:
    """The weights of a model when none are named: its only tag (SigLIP's), else OpenAI's."""
    if model == NANO:
        return NANO_TAG
    if model == DEFAULT_MODEL:
        return DEFAULT_TAG
    if _is_local(model):
        return "local"
    tags = import_open_clip().list_pretrained_tags_by_model(model)
    return str(tags[0]) if len(tags) == 1 else DEFAULT_TAG


def is_published(model: str, pretrained: str) -> bool:
    """Whether these names alone say which weights are meant: no file, and no folder."""
    if model == NANO:
        return pretrained == NANO_TAG
    return pretrained in import_open_clip().list_pretrained_tags_by_model(model)


def encoder_names(model: str, pretrained: str | None) -> tuple[str, str]:
    """Names of an encoder as they appear in a cache's file name, without loading weights."""
    if model.startswith(TIMM):
        return _timm_names(model, pretrained)
    name = Path(model).absolute().stem if _is_local(model) and model != NANO else model
    tag = pretrained or default_pretrained(model)
    return name.replace("/", "-"), Path(tag).stem if Path(tag).is_file() else tag


def _timm_names(model: str, pretrained: str | None) -> tuple[str, str]:
    """The same of a model of timm, whose weights are named with it, apart, or not at all."""
    name, _, own = model.removeprefix(TIMM).partition(".")
    tag = pretrained or own
    if not tag:
        tag = str(getattr(import_timm().get_pretrained_cfg(name), "tag", "") or UNTRAINED)
    return f"timm-{name}", Path(tag).stem if Path(tag).is_file() else tag


def absolute_names(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """The same names with absolute paths, for a process with another working directory."""
    if model != NANO and _is_local(model):
        model = str(Path(model).absolute())
    if pretrained is not None and Path(pretrained).is_file():
        pretrained = str(Path(pretrained).absolute())
    return model, pretrained


def _is_local(model: str) -> bool:
    """Whether a name is a path; a folder named like an architecture needs a configuration."""
    is_path = os.sep in model or "/" in model
    folder = Path(model).is_dir() and (is_path or (Path(model) / CONFIG_FILE).is_file())
    return model == NANO or folder or model.endswith(".json")


def locate(model: str, pretrained: str | None) -> WeightsSource:
    """Find an encoder's parts; published weights that are not on disk are downloaded.

    Parameters
    ----------
    model, pretrained : str
        As `cafe.encoders.encoder.load_encoder` takes them.

    Raises
    ------
    UnknownNameError
        If open_clip knows no such architecture or tag; the nearest names are suggested.
    WeightsError
        If the weights or a local configuration are missing.
    """
    if _is_local(model):
        return _locate_local(model, pretrained)
    open_clip = import_open_clip()
    if model not in open_clip.list_models():
        known = [*open_clip.list_models(), NANO]
        raise UnknownNameError("model", model, known, "Or name a folder or a JSON file.")
    check_tokenizer(model, architecture(model)["text_cfg"])
    tag = pretrained or default_pretrained(model)
    if tag == UNTRAINED:
        return WeightsSource(model, UNTRAINED, model, _shared_preprocess(model), None)
    if Path(tag).is_file():
        return _with_file(model, Path(tag))
    published = open_clip.get_pretrained_cfg(model, tag)
    if not published:
        known = [*open_clip.list_pretrained_tags_by_model(model), UNTRAINED]
        raise UnknownNameError(f"weights of {model}", tag, known, "Or name a checkpoint file.")
    weights = hub.fetch_checkpoint(published, f"{model} '{tag}'")
    return WeightsSource(model, tag, model, published, weights)


def _with_file(model: str, file: Path) -> WeightsSource:
    """A local checkpoint; a copy of OpenAI's, known by its SHA-256, gets QuickGELU too."""
    published: dict[str, Any] = import_open_clip().get_pretrained_cfg(model, DEFAULT_TAG)
    # OpenAI's addresses contain the SHA-256 of the file
    if published and digest_of_file(file) in published.get("url", ""):
        return WeightsSource(model, file.stem, model, published, file, is_openai_file=True)
    return WeightsSource(model, file.stem, model, _shared_preprocess(model), file)


def _shared_preprocess(model: str) -> dict[str, Any]:
    """The preprocess of all published weights of an architecture; empty if they differ.

    A checkpoint file does not hold its preprocess, and architectures differ: SigLIP's squashes
    images where OpenAI's crops them.
    """
    open_clip = import_open_clip()
    entries = [
        open_clip.get_pretrained_cfg(model, tag)
        for tag in open_clip.list_pretrained_tags_by_model(model)
    ]
    configs = [{part: e[part] for part in PREPROCESS if part in e} for e in entries]
    return configs[0] if configs and all(other == configs[0] for other in configs) else {}


def _locate_local(model: str, pretrained: str | None) -> WeightsSource:
    folder = Path(__file__).with_name(NANO) if model == NANO else Path(model)
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
            f"no weights at '{weights}' for model '{name}'; name a checkpoint file with "
            "pretrained=, or 'none' for untrained weights."
        )
    return WeightsSource(name, tag, identifier, {}, weights)


def _register(file: Path) -> str:
    """Register a local architecture with open_clip under its file's name."""
    open_clip = import_open_clip()
    config = _read_config(file, _PARTS)
    known = open_clip.get_model_config(file.stem)
    if known is not None and known != config:
        raise WeightsError(
            f"'{file}' is named like another architecture of open_clip; rename the file."
        )
    if known is None:
        open_clip.add_model_config(file)
    return file.stem


_PARTS = ("embed_dim", "vision_cfg", "text_cfg")


def _read_config(file: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    advice = f"a folder needs an open_clip configuration, {CONFIG_FILE}"
    problem = f"cannot read the architecture '{file}'"
    with raise_as(WeightsError, problem, advice, (OSError, ValueError)):
        config = json.loads(file.read_text(encoding="utf-8"))
    return _with_parts(config, parts, f"'{file}' describes no model of open_clip; it")


def architecture(identifier: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture."""
    config = import_open_clip().get_model_config(identifier)
    what = f"'{identifier}' describes no model of open_clip; its 'model_cfg'"
    return _with_parts(config, _PARTS, what)


def _with_parts(config: Any, parts: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(config, dict) or not all(part in config for part in parts):
        raise WeightsError(f"{what} needs {', '.join(parts)}.")
    return config
