"""The encoders of a saved head: what its file records of them, and the encoders themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import EncoderRecord, load_recorded_encoder
from cafe.errors import InputError
from cafe.extract.encode_images import EncodedImages
from cafe.results.saved_head import SavedHead


def join_encoded(parts: Sequence[EncodedImages]) -> EncodedImages:
    """One batch under several encoders as one; an image that one cannot take has no input."""
    if len(parts) == 1:
        return parts[0]
    reasons = [next(filter(None, row), "") for row in zip(*(p.reasons for p in parts), strict=True)]
    inputs = []
    for part in parts:
        own = [not joint for joint, reason in zip(reasons, part.reasons, strict=True) if not reason]
        inputs.append(part.inputs[torch.tensor(own, dtype=torch.bool)])
    return EncodedImages(parts[0].names, reasons, torch.cat(inputs, dim=-1))


def load_encoders(
    saved: SavedHead,
    model: str | None = None,
    pretrained: str | None = None,
    *,
    device: str = "auto",
) -> Encoder | tuple[Encoder, ...]:
    """The encoder of a head, or each of its encoders; see `load_recorded_encoder`.

    Raises
    ------
    InputError
        If one is named for a head over several, or features were imported.
    """
    records = records_of_head(saved)
    if len(records) == 1:
        return load_recorded_encoder(records[0], model, pretrained, device=device)
    if model is not None or pretrained is not None:
        raise InputError(
            f"the head takes {len(records)} encoders, so model= and pretrained= cannot name one; "
            "they are loaded by their recorded names."
        )
    return tuple(load_recorded_encoder(record, device=device) for record in records)


def record_of_head(saved: SavedHead) -> EncoderRecord:
    """What a head's file records of the one encoder whose features the head was fitted on.

    Raises
    ------
    InputError
        If there are several.
    """
    first, *others = records_of_head(saved)
    if others:
        raise InputError(
            f"the head takes the features of {1 + len(others)} encoders, and this takes one "
            "encoder; export the head alone, which takes their features side by side."
        )
    return first


def records_of_head(saved: SavedHead) -> list[EncoderRecord]:
    """The same of every encoder, in the order of the head's features."""
    about = saved.about
    one = [{**about["encoder"], "cache_key": about["cache_key"]}]
    return [
        EncoderRecord(
            encoder["model"],
            encoder["pretrained"],
            encoder["cache_key"],
            "the head",
            "use cafe.load_head on features",
        )
        for encoder in about["cache_key"].get("encoders", one)
    ]
