"""Numbers of more than 8 bits are scaled by a rule, or refused: never made black or white."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from making import draw_image
from PIL import Image, ImageOps

from cafe.encoders import to_rgb as module
from cafe.encoders.preprocess import upright_rgb
from cafe.errors import ImageError

GREY = np.asarray(draw_image(3, (40, 30)).convert("L"))
RAMP = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)


def reopened(values: np.ndarray[Any, Any] | Image.Image, kind: str = "TIFF") -> Image.Image:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    stream = io.BytesIO()
    image.save(stream, kind)
    return Image.open(io.BytesIO(stream.getvalue()))


def wide(bits: int, dtype: Any) -> np.ndarray[Any, Any]:
    """A ramp from black to white in numbers of so many bits."""
    return np.rint(RAMP / 255 * ((1 << bits) - 1)).astype(dtype)


WIDE = {
    **{f"{bits} bits in 16": wide(bits, np.uint16) for bits in (8, 10, 12, 14, 16)},
    **{f"{bits} bits in 32": wide(bits, np.int32) for bits in (8, 12, 16)},
    **{f"{bits} bits as floats": wide(bits, np.float32) for bits in (8, 10, 12, 14, 16)},
    "floats to 1": (RAMP / 255).astype(np.float32),
    "floats to almost 1": (RAMP / 255 * 0.999).astype(np.float32),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_ramp_stays_a_ramp(kind: str) -> None:
    rgb = np.asarray(upright_rgb(reopened(WIDE[kind])))
    assert np.abs(rgb.astype(int) - RAMP[..., None]).max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
def test_png_of_16_bits(bits: int) -> None:
    rgb = np.asarray(upright_rgb(reopened(wide(bits, np.uint16), "PNG")))
    assert np.abs(rgb.astype(int) - RAMP[..., None]).max() <= 1


def test_true_16_bits_are_what_they_were() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 9)).astype(np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(upright_rgb(reopened(values)))[..., 0], expected)


NO_RANGE = {
    "32 bits": wide(8, np.int32) * 100_000,
    "negative": wide(8, np.int32) - 1000,
    "floats around 0": (RAMP / 127.5 - 1).astype(np.float32),
    "floats to 1.7": (RAMP / 150).astype(np.float32),
    "floats to a million": (RAMP * 4000.0).astype(np.float32),
    "floats to 0.001": (RAMP / 255_000).astype(np.float32),
    "no numbers": np.where(RAMP > 9, np.nan, RAMP).astype(np.float32),
    "infinite": np.where(RAMP > 9, np.inf, RAMP).astype(np.float32),
    "classes of a mask": (RAMP % 9).astype(np.uint16),
}


@pytest.mark.parametrize("kind", NO_RANGE)
def test_numbers_of_no_range_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=r"its values, .* to .*, are in no range that is known"):
        upright_rgb(reopened(NO_RANGE[kind]))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_black_is_black(dtype: Any) -> None:
    rgb = upright_rgb(reopened(np.zeros((5, 6), dtype)))
    assert rgb.getextrema() == ((0, 0),) * 3


def tagged(values: np.ndarray[Any, Any], tag: int, value: int) -> Image.Image:
    """A TIFF one of whose tags is another, as Pillow does not write it."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF", tiffinfo={339: 1})
    entry = struct.pack("<HHI", tag, 3, 1)
    content = bytearray(stream.getvalue())
    place = content.index(entry) + len(entry)
    content[place : place + 4] = struct.pack("<I", value)
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_the_lowest_number(dtype: Any) -> None:
    rgb = np.asarray(upright_rgb(tagged(wide(8 if dtype is np.uint8 else 12, dtype), 262, 0)))
    assert np.abs(rgb.astype(int) - (255 - RAMP[..., None].astype(int))).max() <= 1


def test_signed_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match="signed"):
        upright_rgb(tagged(GREY // 2, 339, 2))


def png_of_colours(channels: int, high: int) -> Image.Image:
    """16-bit PNG, which Pillow reads and does not write, of a ramp up to a value."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    values = np.rint(RAMP / 255 * high).astype(">u2")[..., None].repeat(channels, axis=2)
    if channels in (2, 4):
        values[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, colour, 0, 0, 0))
    parts = b"\x89PNG\r\n\x1a\n", head, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return Image.open(io.BytesIO(b"".join(parts)))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits(channels: int) -> None:
    rgb = np.asarray(upright_rgb(png_of_colours(channels, 65535)))
    assert np.abs(rgb.astype(int) - RAMP[..., None]).max() <= 1
    for high in (0, 255, 1023, 4095):
        with pytest.raises(ImageError, match="16 bits and use 12 or fewer"):
            upright_rgb(png_of_colours(channels, high))


def test_a_dark_image_of_8_bits_is_an_image() -> None:
    assert upright_rgb(reopened((RAMP // 32).astype(np.uint8))).getextrema() == ((0, 7),) * 3


MODES = {
    "L": GREY,
    "RGB": draw_image(3, (40, 30)),
    "RGBA": draw_image(3, (40, 30)).convert("RGBA"),
    "LA": draw_image(3, (40, 30)).convert("LA"),
    "P": draw_image(3, (40, 30)).quantize(9),
    "CMYK": draw_image(3, (40, 30)).convert("CMYK"),
    "1": draw_image(3, (40, 30)).convert("1"),
    "I;16": GREY.astype(np.uint16) * 257,
    "F": GREY.astype(np.float32),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_strips_give_what_the_whole_gives(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = reopened(MODES[mode])
    image.load()
    whole = module.to_rgb(image, orientation)
    monkeypatch.setattr(module, "_STRIP_PIXELS", 40 * 7)
    assert np.array_equal(np.asarray(module.to_rgb(image, orientation)), np.asarray(whole))
    plain = Image.fromarray(np.asarray(module.to_rgb(image, 1)))
    plain.getexif()[274] = orientation
    turned = ImageOps.exif_transpose(plain)
    assert np.array_equal(np.asarray(whole), np.asarray(turned))
