"""What is true of a drawing, and the sentences that say some of it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
STYLES: dict[str, tuple[str, ...]] = {
    "bold": ("bold", "thick", "heavy"),
    "thin": ("thin", "light", "fine"),
    "slanted": ("slanted", "italic", "leaning"),
    "blurry": ("blurry", "blurred", "out-of-focus"),
    "coarse": ("low resolution", "pixelated", "tiny"),
    "noisy": ("noisy", "grainy"),
    "white": ("inverted", "white on black"),
    "handwritten": ("handwritten-style", "script", "casual"),
    "printed": ("printed", "typeset"),
    "wide": ("wide", "broad", "stretched"),
    "narrow": ("narrow", "condensed", "tall"),
    "left": ("tilted left", "turned left"),
    "right": ("tilted right", "turned right"),
    "large": ("large", "big"),
    "small": ("small", "little"),
    "pale": ("pale", "faint"),
    "dark": ("dark", "black"),
    "bent": ("bent", "wobbly", "wavy"),
    "sharp": ("sharp", "crisp"),
    "worn": ("worn", "broken", "damaged"),
}
"""A fact about an image -> the words that state it."""

INDEX = {name: i for i, name in enumerate(STYLES)}
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAMES = ("{}", "{}.", "a photo of {}.", "a photo of {}", "a picture of {}", "an image of {}.")
FRAMES_STYLED = (*FRAMES, "this is {}.", "a scan of {}", "a drawing of {}")
DIGIT_NOUNS = ("the digit {}", "the number {}", "the numeral {}", "a {}", "{}", "number {}")
LETTER_NOUNS = ("the letter {}", "letter {}", "the character {}", "a {}", "{}")
CAPITAL_NOUNS = ("the upper case letter {}", "the capital letter {}", "capital {}")
SMALL_NOUNS = ("the lower case letter {}", "the small letter {}", "lower case {}")


def font_facts(
    path: Path, drawn: dict[str, NDArray[np.uint8]], handwritten: bool
) -> NDArray[np.bool_]:
    """Return which `STYLES` hold of a font: weight by its ink, slant by its name."""
    facts = np.zeros(len(STYLES), dtype=bool)
    ink = float(np.mean([mask.mean() / 255 for mask in drawn.values()]))
    facts[INDEX["bold"]] = ink > 0.17
    facts[INDEX["thin"]] = ink < 0.085
    facts[INDEX["slanted"]] = re.search("italic|oblique", path.name.lower()) is not None
    facts[INDEX["handwritten"]] = handwritten
    facts[INDEX["printed"]] = not handwritten
    return facts


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Pick one of `options`."""
    return options[int(rng.integers(len(options)))]


def name_of(rng: np.random.Generator, character: int) -> tuple[str, bool]:
    """Return a noun phrase for a character, and whether it commits to upper or lower case."""
    glyph = CHARACTERS[character]
    if glyph.isdigit():
        word = DIGIT_WORDS[character] if rng.random() < 0.8 else glyph
        return choose(rng, DIGIT_NOUNS).format(word), False
    if rng.random() < 0.5:
        return choose(rng, LETTER_NOUNS).format(glyph), False
    nouns = CAPITAL_NOUNS if glyph.isupper() else SMALL_NOUNS
    return choose(rng, nouns).format(glyph), True


def describe(
    rng: np.random.Generator, character: int, facts: NDArray[np.bool_]
) -> tuple[str, bool, NDArray[np.bool_]]:
    """Write a true caption for one image, with up to three of its styles.

    Returns
    -------
    tuple
        The caption, whether it commits to a case, and the facts that it states,
        shape (len(STYLES),).
    """
    noun, cased = name_of(rng, character)
    stated = np.zeros_like(facts)
    true = np.flatnonzero(facts)
    if len(true) == 0 or rng.random() < 0.25:
        return choose(rng, FRAMES).format(noun), cased, stated
    some = rng.permutation(true)[: rng.integers(1, 4)]
    stated[some] = True
    words = " ".join(choose(rng, tuple(STYLES.values())[fact]) for fact in some)
    bare = re.sub("^(the|a) ", "", noun)
    article = "an" if words[0] in "aeiou" else "a"
    return choose(rng, FRAMES_STYLED).format(f"{article} {words} {bare}"), cased, stated


def truth_table(characters: Tensor, facts: Tensor, cased: Tensor, stated: Tensor) -> Tensor:
    """Say which caption is true of which image.

    A caption fits an image when it names its character (letters in either case, unless it
    commits to one) and states no fact that the image lacks.

    Parameters
    ----------
    characters
        Index into `CHARACTERS` of each image and its own caption, shape (B,).
    facts, stated
        What holds of image i and what caption j claims, bool, shape (B, len(STYLES)).
    cased
        Whether caption j commits to upper or lower case, bool, shape (B,).

    Returns
    -------
    Tensor
        Float 0 or 1, shape (B, B), images x captions; the diagonal is 1.
    """
    letters = torch.where(characters >= 36, characters - 26, characters)
    same = torch.where(
        cased[None, :],
        characters[:, None] == characters[None, :],
        letters[:, None] == letters[None, :],
    )  # (B, B)
    false_claims = (~facts).float() @ stated.float().T  # (B, B)
    return (same & (false_claims == 0)).float()
