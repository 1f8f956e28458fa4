"""Everything that determines a feature, as canonical JSON and a digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Key = Mapping[str, Any]
"""A flat mapping from a part's name ("weights_sha256") to a JSON value."""


def noun_of(key: Key) -> str:
    """What the items of a cache are, or of several whose keys are joined: "image", or "box"."""
    keys = [encoder["cache_key"] for encoder in key.get("encoders", ())] or [key]
    return "box" if "boxes" in keys[0] else "image"


def say_items(text: str, noun: str) -> str:
    """A text that speaks of images, for a cache of items of another noun; see `noun_of`.

    Examples
    --------
    >>> say_items("2 images, each image once", "box")
    '2 boxes, each box once'
    """
    if noun == "image":
        return text
    return re.sub(r"\bimage(s?)\b", lambda match: "boxes" if match[1] else "box", text)


def canonical(key: Key) -> str:
    """The key as JSON, the same text for the same content: sorted, compact, ASCII."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)


_OF_DIGESTS = {
    "architecture_sha256": "the encoder has another architecture",
    "class_names_sha256": "the class names are others, or in another order",
    "dataset_sha256": "the images, their labels or their splits are others",
    "sentences_sha256": "the prompts are others",
    "tokens_sha256": "the encoder's tokenizer reads the prompts otherwise",
    "weights_sha256": "the encoder has other weights",
}
"""What it means that a part differs of which a digest alone is known."""


def digest(key: Key) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(key).encode()).hexdigest()


def digest_of_names(names: Iterable[str]) -> str:
    """SHA-256 of a list of strings, in order."""
    # JSON keeps ["a", "bc"] and ["ab", "c"] apart
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def digest_of_array(array: NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and numbers."""
    form = f"{array.dtype.str}{array.shape}".encode()  # the same bytes in another shape differ
    return hashlib.sha256(form + array.tobytes()).hexdigest()


def differences(cached: Key, requested: Key) -> list[str]:
    """Name every part in which two keys differ.

    Parameters
    ----------
    cached : Key
        The key of the cache at hand.
    requested : Key
        The key that was asked for.

    Returns
    -------
    list of str
        One clause per part: "precision is bf16, asked for fp32". A part that is absent is null. A
        part that is a digest is said in words.
    """
    return [
        (cached.get(part) and requested.get(part) and _OF_DIGESTS.get(part))
        or f"{part} is {_shorten(cached.get(part))}, asked for {_shorten(requested.get(part))}"
        for part in sorted(cached.keys() | requested.keys())
        # compared as JSON, in which a tuple is the list that a file gives back
        if json.dumps(cached.get(part), sort_keys=True)
        != json.dumps(requested.get(part), sort_keys=True)
    ]


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):  # a SHA-256
        return text[:12] + "…"
    return text if len(text) <= 80 else text[:77] + "…"


IMAGE_TOWER = ("architecture_sha256", "weights_sha256", "preprocess")
"""Parts of a key in which features must agree to be of one encoder."""


def encoder_difference(own: Key, own_name: str, wanted: Key, wanted_name: str) -> str:
    """In a clause, what tells two image encoders apart; "" where nothing does.

    Parameters
    ----------
    own, wanted : Key
        Keys of the features. Where one does not know its weights, as of imports, names decide.
    own_name, wanted_name : str
        "MODEL.PRETRAINED".
    """
    keys = [{part: key.get(part) for part in IMAGE_TOWER} for key in (own, wanted)]
    if all(key["weights_sha256"] for key in keys):
        return next(iter(differences(*keys)), "")
    return "" if own_name == wanted_name else f"its encoder is {own_name}, not {wanted_name}"
