"""Where meta-trained weights come from, and what that means where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cafe.methods.meta_adapter.file import load_meta
from cafe.store import FeatureCache


def encoder_of_cache(source: FeatureCache) -> dict[str, Any]:
    """Which encoder a cache's features are of: `model`, `pretrained`, `weights_sha256`."""
    header = source.header
    return {
        "model": header.model,
        "pretrained": header.pretrained,
        "weights_sha256": header.key.get("weights_sha256"),
    }


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether encoders differ: by their weights where both are known, else by name."""
    known = [side.get("weights_sha256") for side in (one, other)]
    return known[0] != known[1] if all(known) else encoder_name(one) != encoder_name(other)


def encoder_name(encoder: Mapping[str, Any]) -> str:
    """As in the name of a cache."""
    return f"{encoder['model']}.{encoder['pretrained']}"


def meta_notes(source: FeatureCache, settings: Mapping[str, Any]) -> list[str]:
    """What a reader of a result has to know of the meta file that it used.

    Parameters
    ----------
    source : FeatureCache
        Whose features are classified.
    settings : mapping
        Of a study; its "meta" is the file.

    Returns
    -------
    list of str
        Sentences; none where there is no file, or nothing to say.

    Raises
    ------
    InputError
        If the file is none of `cafe meta-train`, or is for features of another width.
    """
    if settings.get("meta") is None:
        return []
    meta, notes = load_meta(settings["meta"]), []
    meta.check_width(source.width)
    if differ(meta.about["encoder"], encoder_of_cache(source)):
        notes.append(
            f"meta-adapter's weights were trained on features of {meta.encoder}, these are of "
            f"{encoder_name(encoder_of_cache(source))}: they may mean nothing here."
        )
    dataset = source.header.dataset
    if any(one["dataset"] == dataset for one in meta.about["caches"]):
        notes.append(
            f"meta-adapter's weights were trained on all training images of {dataset}: its result "
            "is not one of so few shots."
        )
    return notes
