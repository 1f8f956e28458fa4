"""Freely licensed fonts, and every character drawn once with each of them."""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nano.captions import CHARACTERS, font_facts

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
