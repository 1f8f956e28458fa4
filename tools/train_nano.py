"""Train `nano`, the tiny CLIP that ships with cafe, on rendered type.

Example:
    python tools/train_nano.py --fonts /usr/share/fonts node_modules/@fontsource

The training images are single characters (0-9, A-Z, a-z) drawn with freely licensed fonts; the
captions say which character it is and how it looks. No handwritten image is among them. Fonts that
imitate handwriting are, and they are fonts.

Get the fonts with `apt-get install` (`DEBIAN_PACKAGES`) and `npm install` (`FONTSOURCE`, each as
`@fontsource/<name>`); `--list-fonts` prints both commands. Nearly all are under the SIL Open Font
Licence; a few are Apache-2.0, MIT, UFL or GPL with the font exception.

Three steps, each a section below:

1. `draw_pool`: every font draws every character once, as a 64 x 64 mask.
2. `Augment` and `describe`: a batch of masks becomes images (warped, thickened, blurred, coarse,
   noisy) with the facts that are true of each, and a caption that states some of the facts.
3. `train`: CLIP's symmetric cross-entropy, where a caption counts as right for *every* image in
   the batch that it is true of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import string
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor

from cafe.vision import import_open_clip

# --------------------------------------------------------------------------------------------
# Fonts
# --------------------------------------------------------------------------------------------

DEBIAN_PACKAGES = """
fonts-dejavu fonts-liberation fonts-comic-neue fonts-humor-sans fonts-dkg-handwriting fonts-breip
fonts-kristi fonts-rufscript fonts-sjfonts fonts-tomsontalks fonts-ecolier-court
fonts-dancingscript fonts-lato fonts-inter fonts-open-sans fonts-ebgaramond fonts-quicksand
fonts-cabin fonts-comfortaa fonts-cantarell fonts-roboto fonts-bwht fonts-femkeklaver
fonts-kaushanscript fonts-klee fonts-leckerli-one fonts-lobster fonts-seto fonts-havana
fonts-freefont-ttf fonts-linuxlibertine fonts-croscore fonts-crosextra-carlito
fonts-crosextra-caladea fonts-hack fonts-firacode fonts-jura fonts-oldstandard fonts-tuffy
fonts-vollkorn fonts-sil-andika fonts-sil-gentium fonts-mononoki fonts-league-spartan fonts-play
""".split()  # noqa: SIM905 - one word a line would be a wall

FONTSOURCE = """
abel alegreya aleo alex-brush alfa-slab-one allura amatic-sc annie-use-your-telescope
anonymous-pro anybody architects-daughter arvo asap atkinson-hyperlegible b612-mono bad-script
baloo-2 balsamiq-sans barlow berkshire-swash big-shoulders-display birthstone bitter bree-serif
bubblegum-sans cabin cabin-sketch calistoga cardo carter-one caveat caveat-brush
cedarville-cursive chewy chilanka cinzel coiny comic-mono comic-neue comic-relief condiment cookie
corinthia cormorant-garamond courgette courier-prime covered-by-your-grace crimson-pro damion
dancing-script delicious-handrawn delius didact-gothic dm-mono domine dosis eb-garamond
encode-sans-condensed ephesis exo-2 finger-paint fira-mono fjalla-one fredoka freehand gaegu
gelasio gloria-hallelujah gochi-hand grand-hotel grandstander great-vibes handlee happy-monkey
herr-von-muellerhoff homemade-apple ibm-plex-mono im-fell-english inconsolata indie-flower
italianno itim jersey-10 jetbrains-mono josefin-sans jost k2d kalam karla kaushan-script kiwi-maru
knewave kode-mono lemonada lexend libre-baskerville libre-caslon-text libre-franklin licorice
liu-jian-mao-cao lobster-two londrina-solid long-cang lora luckiest-guy lxgw-wenkai ma-shan-zheng
mansalva marck-script maven-pro merriweather mochiy-pop-one monsieur-la-doulaise montecarlo
montserrat mouse-memoirs mr-de-haviland nanum-brush-script nanum-gothic-coding nanum-pen-script
neucha newsreader nunito old-standard-tt oooh-baby orbitron oswald overpass pacifico parisienne
patrick-hand permanent-marker philosopher pixelify-sans playfair-display playpen-sans poiret-one
poor-story poppins press-start-2p prompt pt-serif quicksand raleway reenie-beanie rochester
rock-salt rokkitt rubik sacramento sansita satisfy schoolbell shadows-into-light shantell-sans
share-tech-mono short-stack signika smooch sniglet sora source-serif-4 space-mono special-elite
spectral spicy-rice sriracha sue-ellen-francisco swanky-and-moo-moo syne tangerine tenor-sans
the-girl-next-door tinos twinkle-star ubuntu urbanist varela-round vibur vollkorn vt323 whisper
work-sans yanone-kaffeesatz yellowtail yomogi yusei-magic zcool-kuaile zhi-mang-xing zilla-slab
""".split()  # noqa: SIM905 - one word a line would be a wall

HANDWRITTEN = """
alex-brush allura amatic annie-use architects-daughter bad-script because birthstone breip caveat
cedarville chilanka clicker coiny comic cookie corinthia courgette covered-by-your damion dancing
delicious-handrawn delius delphine dkg ecolier ephesis femke finger-paint freehand gaegu
the-girl-next-door gloria gochi grand-hotel grandstander great-vibes handlee havana herr-von
homemade-apple humor indie-flower italianno itim kalam kaushan kiwi-maru klee knewave kristi
leckerli lemonada liu-jian lobster long-cang lxgw ma-shan mansalva marck monsieur montecarlo
mr-de-haviland nanum-brush nanum-pen neucha pacifico parisienne patrick-hand permanent-marker
playpen playwrite poor-story reenie rochester rock-salt rufscript sacramento satisfy schoolbell
seto shadows-into shantell short-stack sjfonts sofia sriracha steve sue-ellen swanky tangerine
tomsontalks vibur whisper yellowtail yomogi yusei zcool-kuaile zhi-mang
""".split()  # noqa: SIM905 - one word a line would be a wall
"""Beginnings of the names of families that imitate handwriting; half of all draws."""

UNREADABLE = re.compile("symbol|emoji|dingbat|mathematical|redacted|dseg|biolinum_k")

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
CANVAS = 64
"""Side of a pool mask in pixels; twice the encoder's, so that warping does not blur."""

BOX = 44
"""The longer side of a drawn character in its mask; the rest is margin for warping."""


@dataclass(frozen=True)
class Pool:
    """Every character of every font, with what is known about it.

    Parameters
    ----------
    masks
        Ink in [0, 255], shape (N, 64, 64), uint8.
    characters
        Index into `CHARACTERS`, shape (N,).
    facts
        True where a style in `STYLES` holds of the font, shape (N, len(STYLES)), bool.
    weights
        Probability of each mask to be drawn, shape (N,), float64, sum 1.
    fonts
        Number of fonts that gave at least one mask.
    """

    masks: NDArray[np.uint8]
    characters: NDArray[np.int64]
    facts: NDArray[np.bool_]
    weights: NDArray[np.float64]
    fonts: int

    def digest(self) -> str:
        """Return the SHA-256 of the masks: equal digests mean equal training data."""
        return hashlib.sha256(self.masks.tobytes()).hexdigest()


def find_fonts(folders: Sequence[Path]) -> list[Path]:
    """Return the TrueType, OpenType and Latin WOFF files under `folders`, by name."""
    found = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in {".ttf", ".otf"} or re.search(r"-latin-[34567]00.*\.woff$", path.name)
    ]
    readable = [path for path in found if not UNREADABLE.search(path.name.lower())]
    return sorted(readable, key=lambda path: (path.name, str(path)))


def family_of(path: Path) -> str:
    """Return a family name that the cuts of one typeface share: 'caveat', 'dejavusans'."""
    return re.split(r"-latin-|-(?=[A-Z])|[_.]", path.name)[0].lower()


def draw(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    """Draw one character so that its longer side is `BOX`, centred; None where it has no ink."""
    left, top, right, bottom = font.getbbox(character)
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    if min(width, height) < 2:
        return None
    drawing = Image.new("L", (width, height))
    ImageDraw.Draw(drawing).text((-left, -top), character, fill=255, font=font)
    inked = drawing.getbbox()
    if inked is None:
        return None
    drawing = drawing.crop(inked)
    scale = BOX / max(drawing.size)
    size = (max(2, round(drawing.width * scale)), max(2, round(drawing.height * scale)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(
        drawing.resize(size, Image.Resampling.BICUBIC),
        ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2),
    )
    return np.asarray(canvas)


def draw_font(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Draw all characters of a font; an empty dictionary where it cannot draw type.

    A character that the font lacks comes out as its 'missing' box, and is left out. So is a
    lower-case letter that a capitals-only font draws as the capital.
    """
    try:
        font = ImageFont.truetype(str(path), size=72)
        missing = draw(font, "\uffff")
        drawn = {c: mask for c in CHARACTERS if (mask := draw(font, c)) is not None}
    except OSError:
        return {}
    if missing is not None:
        drawn = {c: mask for c, mask in drawn.items() if not np.array_equal(mask, missing)}
    if len({mask.tobytes() for mask in drawn.values()}) < 30:
        return {}
    capitals = {drawn[c].tobytes() for c in string.ascii_uppercase if c in drawn}
    return {
        c: mask
        for c, mask in drawn.items()
        if not (c in string.ascii_lowercase and c not in "cosvwxz" and mask.tobytes() in capitals)
    }


def variants(character: str, mask: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return a mask and what a hand or a scanner may make of it.

    A seven also gets a bar through its stem, as much of Europe writes it. A narrow character is
    also stretched to half its height, as scanners do that fit every character into one box.
    """
    columns, rows = np.flatnonzero(mask.max(0)), np.flatnonzero(mask.max(1))
    found = [mask]
    if character == "7":
        bar = mask.copy()
        stroke = max(3, round(float(mask.sum()) / 255 / (2 * BOX)))
        top = int(rows[0] + 0.5 * len(rows)) - stroke // 2
        bar[top : top + stroke, columns[0] + 2 : columns[-1] - 1] = 255
        found.append(bar)
    if columns[-1] - columns[0] < 0.45 * (rows[-1] - rows[0]):
        inked = Image.fromarray(mask).crop((columns[0], 0, columns[-1] + 1, CANVAS))
        wide = inked.resize((BOX // 2, CANVAS), Image.Resampling.BICUBIC)
        canvas = Image.new("L", (CANVAS, CANVAS))
        canvas.paste(wide, ((CANVAS - BOX // 2) // 2, 0))
        found.append(np.asarray(canvas))
    return found


def draw_pool(paths: Sequence[Path], digits: float = 0.5, handwritten: float = 0.5) -> Pool:
    """Draw every font once; `digits` and `handwritten` are shares of the draws."""
    masks: list[NDArray[np.uint8]] = []
    rows: list[tuple[str, bool, int]] = []  # family, handwritten, character
    facts: list[NDArray[np.bool_]] = []
    seen: set[bytes] = set()
    for path in paths:
        drawn = draw_font(path)
        fingerprint = b"".join(drawn[c].tobytes() for c in "02479aQ" if c in drawn)
        if not drawn or fingerprint in seen:
            continue  # the same outlines from another package
        seen.add(fingerprint)
        family = family_of(path)
        is_hand = family.startswith(tuple(HANDWRITTEN))
        fact = font_facts(path, drawn, is_hand)
        for character, mask in drawn.items():
            for variant in variants(character, mask):
                masks.append(variant)
                rows.append((family, is_hand, CHARACTERS.index(character)))
                facts.append(fact)
    characters = np.array([row[2] for row in rows])
    return Pool(
        masks=np.stack(masks),
        characters=characters,
        facts=np.stack(facts),
        weights=draw_weights(rows, digits, handwritten),
        fonts=len(seen),
    )


def draw_weights(
    rows: Sequence[tuple[str, bool, int]], digits: float, handwritten: float
) -> NDArray[np.float64]:
    """Give each family of a style, and each character of a kind, the same chance."""
    families = np.array([row[0] for row in rows])
    hand = np.array([row[1] for row in rows])
    characters = np.array([row[2] for row in rows])
    is_digit = characters < 10
    _, inverse, counts = np.unique(families, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[inverse] / np.bincount(characters)[characters]
    for kind, share in ((hand, handwritten), (is_digit, digits)):
        for side, part in ((kind, share), (~kind, 1 - share)):
            weights[side] *= part / max(weights[side].sum(), 1e-12)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


# --------------------------------------------------------------------------------------------
# Captions
# --------------------------------------------------------------------------------------------

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


# --------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------


class Augment:
    """Turn masks into images as a camera or a small scanner might see them.

    Parameters
    ----------
    size
        Side of the images in pixels.
    generator
        The only source of randomness.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return `count` uniform draws from [low, high), shape (count,)."""
        return low + (high - low) * torch.rand(count, generator=self.generator)

    def chance(self, count: int, share: float) -> Tensor:
        """Return a bool per image, true for about `share` of them, shape (count,)."""
        return self.uniform(count) < share

    def __call__(self, masks: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        """Make images from masks.

        Parameters
        ----------
        masks
            Ink in [0, 1], shape (B, 64, 64).
        facts
            What holds of each font, bool, shape (B, len(STYLES)).

        Returns
        -------
        tuple of Tensor
            Grey images in [0, 1], shape (B, 1, size, size), and the facts with those added that
            the augmentation made true.
        """
        facts = facts.clone()
        ink = self.wear(self.stroke(masks[:, None], facts), facts)
        ink = self.warp(ink, facts)
        ink = self.soften(ink, facts)
        ink = self.coarsen(ink, facts)
        return self.expose(ink, facts), facts

    def stroke(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Thicken a third of the strokes, some of them twice or thrice, and thin a few."""
        thick, thicker = self.chance(len(ink), 0.35), self.chance(len(ink), 0.2)
        thin = self.chance(len(ink), 0.15) & ~thick & ~facts[:, INDEX["thin"]]
        ink = ink.clone()
        ink[thick] = F.max_pool2d(ink[thick], 3, 1, 1)
        ink[thicker] = F.max_pool2d(ink[thicker], 5, 1, 2)
        ink[thin] = -F.max_pool2d(-ink[thin], 3, 1, 1)
        facts[:, INDEX["bold"]] |= thick & thicker & ~facts[:, INDEX["thin"]]
        facts[:, INDEX["bold"]] &= ~thin
        facts[:, INDEX["thin"]] &= ~(thick | thicker)
        return ink

    def wear(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Rub a round hole into a third, where a pen may have skipped: loops may open."""
        count = len(ink)
        worn = self.chance(count, 0.3)
        centre = torch.randn(count, 2, generator=self.generator) * (BOX / 4) + CANVAS / 2
        radius = torch.where(worn, self.uniform(count, 3.0, 7.0), 0.0)
        axis = torch.arange(CANVAS) + 0.5
        across = (axis[None] - centre[:, :1]) ** 2  # (B, 64)
        down = (axis[None] - centre[:, 1:]) ** 2  # (B, 64)
        hole = across[:, None, :] + down[:, :, None] < radius[:, None, None] ** 2  # (B, 64, 64)
        facts[:, INDEX["worn"]] = worn & (ink[:, 0] * hole).flatten(1).any(1)
        return ink * ~hole[:, None]

    def warp(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Rotate, shear, stretch, shift and bend."""
        count = len(ink)
        angle = self.uniform(count, -0.25, 0.25)
        shear = torch.randn(count, generator=self.generator) * 0.2
        # A glyph's longer side is BOX of CANVAS: a zoom of CANVAS / BOX fills the picture.
        zoom = self.uniform(count, 0.9, 1.55)
        aspect = torch.exp(torch.randn(count, generator=self.generator) * 0.18 - 0.1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        matrix = torch.zeros(count, 2, 3)
        matrix[:, 0, 0], matrix[:, 0, 1] = cos / (zoom * aspect), (shear - sin) / zoom
        matrix[:, 1, 0], matrix[:, 1, 1] = sin / (zoom * aspect), cos / zoom
        matrix[:, :, 2] = torch.randn(count, 2, generator=self.generator) * 0.05
        grid = F.affine_grid(matrix, [count, 1, CANVAS, CANVAS], align_corners=False)
        strength = self.uniform(count, 0.0, 0.1)[:, None, None, None]
        knots = torch.randn(count, 2, 5, 5, generator=self.generator) * strength
        bend = F.interpolate(knots, (CANVAS, CANVAS), mode="bicubic", align_corners=True)
        facts[:, INDEX["slanted"]] |= shear > 0.25
        for name, holds in (
            ("wide", aspect > 1.05),
            ("narrow", aspect < 0.78),
            ("left", angle > 0.12),
            ("right", angle < -0.12),
            ("large", zoom > 1.35),
            ("small", zoom < 1.05),
            ("bent", strength.flatten() > 0.07),
        ):
            facts[:, INDEX[name]] = holds
        return F.grid_sample(ink, grid + bend.permute(0, 2, 3, 1), align_corners=False)

    def soften(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Blur some, and make others hard-edged as a fax does."""
        hard, soft = self.chance(len(ink), 0.3), self.chance(len(ink), 0.2)
        ink = ink.clone()
        ink[hard] = (ink[hard] > 0.4).float()
        for _ in range(2):
            ink[soft] = F.avg_pool2d(ink[soft], 5, 1, 2)
        facts[:, INDEX["blurry"]] |= soft
        facts[:, INDEX["sharp"]] |= hard & ~soft
        return ink

    def coarsen(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Average into few pixels and enlarge them again, as a thumbnail is."""
        pick = self.uniform(len(ink))
        image = F.adaptive_avg_pool2d(ink, self.size)
        for side, low, high in ((8, 0.0, 0.45), (12, 0.45, 0.55), (16, 0.55, 0.65)):
            rows = (pick >= low) & (pick < high)
            small = F.adaptive_avg_pool2d(ink[rows], side)
            image[rows] = F.interpolate(
                small, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
        facts[:, INDEX["coarse"]] |= pick < 0.55
        facts[:, INDEX["sharp"]] &= pick >= 0.65
        return image

    def expose(self, ink: Tensor, facts: Tensor) -> Tensor:
        """Choose the ink, the paper and the noise; a tenth is white on black."""
        count = len(ink)
        shade = self.uniform(count, 0.6, 1.2).clamp(max=1.0)[:, None, None, None]
        gamma = torch.exp(torch.randn(count, generator=self.generator) * 0.25)
        ink = shade * ink ** gamma[:, None, None, None]
        noisy = self.chance(count, 0.15)
        noise = torch.where(noisy, self.uniform(count, 0.05, 0.15), self.uniform(count, 0.0, 0.02))
        image = 1.0 - ink
        image = (
            image
            * torch.where(self.chance(count, 0.5), 1.0, self.uniform(count, 0.75, 1.0))[
                :, None, None, None
            ]
        )
        image = image + noise[:, None, None, None] * torch.randn(
            image.shape, generator=self.generator
        )
        white = self.chance(count, 0.1)
        image[white] = 1.0 - image[white]
        facts[:, INDEX["noisy"]] |= noisy
        facts[:, INDEX["white"]] |= white
        facts[:, INDEX["pale"]] |= shade.flatten() < 0.75
        facts[:, INDEX["dark"]] |= ~white & (shade.flatten() > 0.98)
        return image.clamp(0, 1)


# --------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------


MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""CLIP's own; `preprocess_cfg` in the configuration names the same."""


@dataclass(frozen=True)
class Batch:
    """Images with one caption each, and the table of which caption is true of which image.

    Parameters
    ----------
    images
        Normalised RGB, shape (B, 3, size, size).
    tokens
        Shape (B, context).
    truth
        Float 0 or 1, images x captions, shape (B, B).
    """

    images: Tensor
    tokens: Tensor
    truth: Tensor


def batches(
    pool: Pool, config: dict[str, Any], tokenizer: Any, size: int, seed: int
) -> Iterator[Batch]:
    """Yield batches of `size` for ever."""
    rng = np.random.default_rng(seed)
    augment = Augment(config["vision_cfg"]["image_size"], torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(value)[:, None, None] for value in MEAN_STD)
    cumulative = np.cumsum(pool.weights)
    while True:
        rows = np.searchsorted(cumulative, rng.random(size) * cumulative[-1])
        characters = pool.characters[rows]
        grey, facts = augment(
            torch.from_numpy(pool.masks[rows]).float() / 255, torch.from_numpy(pool.facts[rows])
        )
        captions = [
            describe(rng, int(c), f) for c, f in zip(characters, facts.numpy(), strict=True)
        ]
        truth = truth_table(
            torch.from_numpy(characters),
            facts,
            torch.tensor([cased for _, cased, _ in captions]),
            torch.from_numpy(np.stack([stated for _, _, stated in captions])),
        )
        images = ((grey - mean) / std).contiguous(memory_format=torch.channels_last)
        yield Batch(images, tokenizer([text for text, _, _ in captions]), truth)


def clip_loss(image: Tensor, text: Tensor, scale: Tensor, truth: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy with several right answers.

    With a diagonal `truth` this is the loss of Radford et al. 2021.

    Parameters
    ----------
    image, text
        Normalised features, shape (B, D).
    scale
        The learned logit scale, a scalar (after exp).
    truth
        Float 0 or 1, images x captions, shape (B, B).
    """
    logits = scale * image @ text.T  # (B, B)
    per_image = F.cross_entropy(logits, truth / truth.sum(1, keepdim=True))
    per_text = F.cross_entropy(logits.T, truth.T / truth.T.sum(1, keepdim=True))
    return (per_image + per_text) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return a linear warm-up over 5 % of the steps, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only; a token that never occurs must keep its vector."""
    named = list(model.named_parameters())
    matrix = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    return [{"params": matrix, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def train(
    model: Any,
    stream: Iterator[Batch],
    steps: int,
    peak: float,
    decay: float,
    progress: Callable[[int, float], None],
) -> None:
    """Train in place; `progress` gets the step and its loss."""
    groups = parameter_groups(model, decay)
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    model.train()
    model.visual.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        batch = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(batch.images, normalize=False)
        image = F.normalize(image.float(), dim=1)  # (B, D)
        text = model.encode_text(batch.tokens, normalize=True)  # (B, D)
        loss = clip_loss(image, text, model.logit_scale.exp(), batch.truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        progress(step, loss.item())
    model.eval()


def save(model: torch.nn.Module, path: Path) -> str:
    """Write the weights as float16 safetensors and return the file's SHA-256."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    temporary = path.with_suffix(".tmp")
    save_file(state, str(temporary), metadata={"format": "pt"})
    temporary.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def report(every: int, steps: int) -> Callable[[int, float], None]:
    """Return a progress callable that prints a line now and then."""
    start = time.perf_counter()

    def line(step: int, loss: float) -> None:
        if step % every == 0 or step == steps - 1:
            print(
                f"step {step:5d}  loss {loss:.4f}  {time.perf_counter() - start:.0f} s", flush=True
            )

    return line


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fonts", type=Path, nargs="+", metavar="DIR", help="font folders")
    parser.add_argument("--list-fonts", action="store_true", help="print how to get the fonts")
    parser.add_argument(
        "--config", type=Path, default=Path("cafe/assets/nano/open_clip_config.json")
    )
    parser.add_argument("--out", type=Path, default=Path("cafe/assets/nano"))
    parser.add_argument("--steps", type=int, default=550)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of matrices")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.fonts and not options.list_fonts:
        parser.error("--fonts is needed: the folders to look for fonts in (see --list-fonts)")
    return options


def main() -> None:
    """Draw, train, save."""
    options = arguments()
    if options.list_fonts:
        print("apt-get install", *DEBIAN_PACKAGES)
        print("npm install", *(f"@fontsource/{name}" for name in FONTSOURCE))
        return
    open_clip = import_open_clip()
    config = json.loads(options.config.read_text())["model_cfg"]
    pool = draw_pool(find_fonts(options.fonts))
    print(
        f"{pool.fonts} fonts, {len(pool.masks)} characters, masks {pool.digest()[:16]}", flush=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)  # open_clip draws its initial weights globally
        model = open_clip.CLIP(**config)
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    stream = batches(pool, config, tokenizer, options.batch, options.seed)
    train(model, stream, options.steps, options.lr, options.decay, report(100, options.steps))
    options.out.mkdir(parents=True, exist_ok=True)
    digest = save(model, options.out / "open_clip_model.safetensors")
    print(f"SHA-256 {digest}")


if __name__ == "__main__":
    main()
