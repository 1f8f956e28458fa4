"""The encoder that made cached features: loaded by its recorded names, and checked by its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cafe.devices import resolve_device
from cafe.encoders.decoding import decode_of
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import CacheMismatchError, InputError, UnknownNameError, WeightsError
from cafe.store import FeatureCache
from cafe.store.key import IMAGE_TOWER, Key, differences

WEIGHTS = ("weights_sha256",)
TEXT_TOWER = (*WEIGHTS, "architecture_sha256")


class EncoderRecord(NamedTuple):
    """What a cache, or a head that was fitted on one, records of its encoder.

    Attributes
    ----------
    model, pretrained : str
        The encoder's names.
    key : Key
        The key of the cache.
    owner : str
        What holds the record, for messages.
    alternative : str
        What else to do where the encoder is not known, for messages.
    """

    model: str
    pretrained: str
    key: Key
    owner: str
    alternative: str = ""


def record_of_cache(cache: FeatureCache, alternative: str = "") -> EncoderRecord:
    """What a cache records of its encoder."""
    header = cache.header
    owner = f"the cache '{cache.path}'"
    return EncoderRecord(header.model, header.pretrained, header.key, owner, alternative)


def load_recorded_encoder(
    record: EncoderRecord,
    model: str | None = None,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    parts: Sequence[str] = IMAGE_TOWER,
) -> Encoder:
    """Load the encoder that features were made with, which decodes files as it did then.

    Parameters
    ----------
    record : EncoderRecord
    model, pretrained : str, optional
        Where the encoder is, if it came from a folder or a file. None takes the recorded names.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : str, optional
        None takes that of the features; on a CPU, which has no fp16, fp32 instead of fp16.
    parts : sequence of str
        Parts of the key that must agree; see `check_recorded_encoder`.

    Raises
    ------
    InputError
        If the features were imported: their encoder is not known.
    WeightsError
        If the encoder cannot be loaded.
    CacheMismatchError
        If it is another encoder than the recorded one.
    """
    _refuse_imported(record)
    is_named = model is not None or pretrained is not None
    chosen = precision or str(record.key.get("precision", "auto"))
    if precision is None and chosen == "fp16" and resolve_device(device).type == "cpu":
        chosen = "fp32"  # the features differ in their last bits only
    try:
        encoder = load_encoder(
            model or record.model,
            pretrained if is_named else record.pretrained,
            device=device,
            precision=chosen,
        )
    except (UnknownNameError, WeightsError) as error:
        if is_named:
            raise
        reason = str(error).partition(";")[0].rstrip(".")  # its advice is for another call
        raise WeightsError(
            f"the encoder of {record.owner}, '{record.model}' with weights '{record.pretrained}', "
            f"cannot be loaded by its names ({reason}); if it came from a folder or a file, name "
            "that with model= and pretrained=."
        ) from error
    check_recorded_encoder(record, encoder, parts)
    return decoding_as(record, encoder)


def decoding_as(record: EncoderRecord, encoder: Encoder) -> Encoder:
    """The encoder for files that are decoded as those of the record were."""
    return encoder.decoding(decode_of(record.key) or "exact")


def check_recorded_encoder(
    record: EncoderRecord, encoder: Encoder, parts: Sequence[str] = IMAGE_TOWER
) -> None:
    """Refuse an encoder other than the recorded one.

    Parameters
    ----------
    record : EncoderRecord
    encoder : Encoder
    parts : sequence of str
        Parts of the key that must agree, the most telling one first.

    Raises
    ------
    InputError
        If the features were imported: their encoder is not known.
    CacheMismatchError
        If the encoder is another one. The first part that differs is named.
    """
    _refuse_imported(record)
    key = encoder.key()
    for part in parts:
        if different := differences({part: key[part]}, {part: record.key.get(part)}):
            raise CacheMismatchError(
                f"'{encoder.model}' is not the encoder of {record.owner}: {different[0]}; name "
                f"that encoder ('{record.model}', weights '{record.pretrained}') with model= and "
                "pretrained=, or extract again."
            )


def _refuse_imported(record: EncoderRecord) -> None:
    if not record.key.get("weights_sha256"):
        advice = f", or {record.alternative}" if record.alternative else ""
        raise InputError(
            f"the encoder of {record.owner} is not known, because its features were imported; "
            f"extract the images with 'cafe extract'{advice}."
        )
