"""The formats of images that cafe reads, known by content: one list for every source of images.

Pillow opens any of its formats under any name, and some of them start other programs. The first
bytes of a file tell what it is, and Pillow is asked for that format alone.
"""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from contextlib import suppress
from pathlib import Path

HEAD = 64
"""Bytes at the start of a file that tell its format."""

SUFFIXES = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Format as Pillow calls it -> how its files are usually called."""

_SIGNATURES = {
    "AVIF": rb".{4}ftyp(avi[fs]|m[is]f1.{0,40}?avi[fs])",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # and the size of its header
    "GIF": rb"GIF8[79]a",
    "HEIF": rb".{4}ftyp(hei[cxms]|hev[cxms]|m[is]f1)",
    "JPEG": rb"\xff\xd8\xff",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "PPM": rb"P[1-6f]\s+[#0-9]|P[1-6]#",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBP",
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _SIGNATURES.items()}

_RAW = re.compile(r"\.(3fr|arw|cr2|dcr|dng|erf|kdc|nef|nrw|orf|pef|rw2|sr2|srw)")
"""Cameras' raw files: some begin as a TIFF does, whose image is a thumbnail."""

_FEATURES = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""What Pillow may have been built without."""

_PLUGINS = {"AVIF": "pillow-avif-plugin", "HEIF": "pillow-heif"}
"""Packages that teach Pillow a format."""


def sniff(head: bytes) -> str | None:
    """The format of a file whose first bytes these are; None where cafe reads no such format."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(head)), None)


@functools.cache
def can_open(name: str) -> bool:
    """Whether this Pillow, with its plug-ins, opens a format."""
    from PIL import Image, features

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old Pillow does not know of AVIF
        if name in Image.OPEN and (name not in _FEATURES or features.check(_FEATURES[name])):
            return True
    if name not in _PLUGINS:
        return False
    with suppress(ImportError):
        plugin = importlib.import_module(_PLUGINS[name].removesuffix("-plugin").replace("-", "_"))
        getattr(plugin, f"register_{name.lower()}_opener", lambda: None)()
        return name in Image.OPEN
    return False


def what_it_needs(name: str) -> str:
    """What a format needs that this Pillow cannot open."""
    package = _PLUGINS.get(name)
    return f"'pip install {package}'" if package else "a Pillow that was built with it"


@functools.cache
def known_suffixes() -> frozenset[str]:
    """Suffixes whose files are taken for images unseen."""
    return frozenset(
        suffix for name, suffixes in SUFFIXES.items() if can_open(name) for suffix in suffixes
    )


def reason_against(path: Path) -> str:
    """Of what kind a file is that is listed and no image to cafe; "" where it is one.

    A suffix that is known is believed, as a large folder is listed faster without opening its
    files: decoding looks at the content of each.
    """
    suffix = path.suffix.lower()
    if suffix in known_suffixes():
        return ""
    if _RAW.fullmatch(suffix):
        return "raw images of cameras, to be converted first"
    try:
        with path.open("rb") as stream:
            name = sniff(stream.read(HEAD))
    except OSError:
        name = None
    if name is None:
        return "files of no image format that cafe reads"
    return "" if can_open(name) else f"{name} images, which need {what_it_needs(name)}"
