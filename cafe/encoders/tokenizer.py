"""The tokenizer of an encoder: open_clip's own, or one of Hugging Face's; loads no weights.

SigLIP's and a few other text towers use the vocabularies of language models. open_clip reads those
with the package transformers, which cafe does not depend on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import cafe.encoders.hub as hub
from cafe.compat import import_open_clip
from cafe.errors import WeightsError, one_line

PACKAGE = "transformers"

_FILES = "tokenizer.json tokenizer.model spiece.model sentencepiece.bpe.model vocab.json vocab.txt"
"""Files that hold a vocabulary; a tokenizer's folder has one of them."""

_ADVICE = (
    "load it once where there is a network, or name a folder with model= that holds "
    "open_clip_config.json, the weights and the tokenizer's files"
)


def check_tokenizer(model: str, text: Any, folder: Path | None = None) -> None:
    """Refuse a tokenizer that lacks its package or its files, before weights are downloaded.

    Parameters
    ----------
    model : str
        The encoder, for the error.
    text : mapping
        The text part of its configuration.
    folder : Path, optional
        The folder of a local encoder; its tokenizer must lie there too.

    Raises
    ------
    WeightsError
        If it is missing; the message says what to install or to copy.
    """
    published = text.get("hf_tokenizer_name") if isinstance(text, Mapping) else None
    if not published:
        return
    if importlib.util.find_spec(PACKAGE) is None:
        raise WeightsError(
            f"the tokenizer of '{model}' ({published}) needs the package {PACKAGE}, which is not "
            f"installed: pip install {PACKAGE}."
        )
    if folder is not None and not any((folder / name).is_file() for name in _FILES.split()):
        raise WeightsError(
            f"'{folder}' has no tokenizer; copy the files of {published} (tokenizer.json, "
            "tokenizer_config.json) there, beside open_clip_config.json."
        )


def load_tokenizer(model: str, identifier: str) -> Any:
    """Load the tokenizer of an encoder, from what is on disk if it is there.

    Parameters
    ----------
    model : str
        The encoder, for errors.
    identifier : str
        open_clip's name of the encoder.

    Returns
    -------
    callable
        Sentences -> token ids. (n, context)

    Raises
    ------
    WeightsError
        If it cannot be loaded.
    """
    # imported before `hub.fetch` goes offline: transformers, which this imports, reads that setting
    # once and would stay offline
    open_clip = import_open_clip()
    text = (open_clip.get_model_config(identifier) or {}).get("text_cfg") or {}
    # a configuration may ask for code that comes with a tokenizer of Hugging Face's to be run
    options = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}

    def get() -> Any:
        try:
            tokenizer = open_clip.get_tokenizer(identifier, **options)
            tokenizer(["a"])  # some faults, such as a missing padding token, show only in use
        except ImportError as error:
            raise WeightsError(
                f"the tokenizer of '{model}' needs a package that is missing ({one_line(error)}): "
                f"pip install {PACKAGE} sentencepiece."
            ) from error
        return tokenizer

    return hub.fetch(get, f"the tokenizer of '{model}'", _ADVICE)


def places_cut(tokenizer: Any, sentences: Sequence[str], token_ids: Tensor) -> list[int]:
    """Which sentences have more tokens than the text tower reads; the rest of them is cut.

    Parameters
    ----------
    tokenizer : callable
        As `load_tokenizer` gives it.
    sentences : sequence of str
        (n,)
    token_ids : Tensor
        Theirs. (n, L)

    Returns
    -------
    list of int
        Places in `sentences`.
    """
    short, length = tokenizer(["a"])[0], token_ids.shape[1]
    # the last token may be the end of any sentence; the one before it is padding unless it is full
    full = (token_ids[:, -2] != short[-2]).nonzero().flatten().tolist()
    if not full:
        return []
    longer = tokenizer([sentences[place] for place in full], context_length=length + 1)
    differ = (longer[:, :length] != token_ids[full]).any(dim=1) | (longer[:, -1] != short[-1])
    return [place for place, cut in zip(full, differ.tolist(), strict=True) if cut]
