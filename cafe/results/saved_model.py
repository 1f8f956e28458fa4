"""The folder of a model as a format: a head, what is known of it, and its card.

`model.json` names the head's file and its SHA-256, so that the two belong together. It comes last
when a model is written, over an older one too: who reads finds the old model or the new one, whole.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cafe.errors import CafeError, InputError, raise_as
from cafe.methods.head import Head
from cafe.results.model_record import ModelRecord
from cafe.results.saved_head import save_head
from cafe.results.typed_json import from_json, read_text
from cafe.store.files import digest_of_file, move, temporary_folder, write_folder

MODEL, CARD = "model.json", "README.md"


class ModelNotFoundError(CafeError, FileNotFoundError):
    """No such model."""


def read_model(folder: Path) -> ModelRecord:
    """Read what a folder says of its model.

    Raises
    ------
    ModelNotFoundError
        If it is no folder of a model.
    InputError
        If its `model.json` is damaged.
    """
    path = folder / MODEL
    if not path.is_file():
        raise ModelNotFoundError(
            f"'{folder}' is not the folder of a model: it has no {MODEL}; 'cafe train' makes one."
        )
    record: ModelRecord = from_json(ModelRecord, read_text(path), path)
    return record


def head_of_model(folder: Path) -> Path:
    """The head's file in the folder of a model.

    Raises
    ------
    InputError
        If the files do not belong together; nothing of the head is read.
    """
    record = read_model(folder)
    file = folder / Path(record.head).name
    if not file.is_file():
        raise InputError(
            f"'{folder}' has lost '{record.head}', the head that its {MODEL} names; train it again "
            "with 'cafe train'."
        )
    if digest_of_file(file) != record.head_sha256:
        raise InputError(
            f"'{file}' is not the head that '{folder / MODEL}' was saved with: the files of two "
            "models were mixed, or it was damaged; train it again, or name the head's file alone."
        )
    return file


def check_model_folder(folder: Path, dataset: str | None = None) -> ModelRecord | None:
    """The model whose place a new one takes; None where there is none.

    Raises
    ------
    InputError
        If there is something else than a model, or a model of another dataset.
    """
    with raise_as(CafeError, f"cannot write a model to '{folder}'", "choose another folder"):
        if not (folder / MODEL).is_file():
            if folder.is_dir() and not any(folder.iterdir()):
                return None
            if folder.exists() or folder.is_symlink():
                raise InputError(
                    f"'{folder}' is there and holds no model; choose another with output=."
                )
            return None
    try:
        earlier = read_model(folder)
    except InputError as error:
        reason = str(error).partition(";")[0]
        raise InputError(f"{reason}; remove it, or choose another folder with output=.") from error
    if dataset is not None and earlier.dataset != dataset:
        raise InputError(
            f"'{folder}' is a model of '{earlier.dataset}', not of '{dataset}'; choose another "
            "folder with output=, or remove it."
        )
    return earlier


def save_model(
    folder: Path, record: ModelRecord, head: Head, zero_shot: Head | None, card: str
) -> ModelRecord:
    """Write a model; one that is in the folder is replaced when the new one is whole.

    Parameters
    ----------
    folder : Path
    record : ModelRecord
    head : Head
    zero_shot : Head or None
        Zero-shot CLIP on the same classes.
    card : str
        The model card, Markdown.

    Returns
    -------
    ModelRecord
        With the name of the head's file and its digest.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """

    def fill(made: Path) -> None:
        nonlocal record
        draft = made / "head.safetensors"
        save_head(draft, head, record.about, zero_shot)
        digest = digest_of_file(draft)
        # a name of its own, so that the head of an older model stays until model.json changes
        record = replace(record, head=f"head-{digest[:12]}.safetensors", head_sha256=digest)
        draft.rename(made / record.head)
        (made / CARD).write_text(card, encoding="utf-8")
        (made / MODEL).write_text(json.dumps(record.json, indent=1) + "\n", encoding="utf-8")

    if not folder.exists():
        write_folder(folder, fill)
        return record
    with temporary_folder(folder.parent) as temporary:
        fill(temporary)
        for file in (record.head, CARD, MODEL):
            move(temporary / file, folder / file)
    remove_older_heads(folder, record)
    return record


def remove_older_heads(folder: Path, record: ModelRecord) -> None:
    """Remove what `save_model` leaves that is killed when the new model is whole."""
    for other in folder.glob("head-*.safetensors"):
        if other.name != record.head:
            with suppress(OSError):  # the model is whole without it
                other.unlink()
