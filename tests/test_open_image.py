"""An image file is opened by its content, within a budget of bytes, pixels and time."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import pytest
from making import draw_image
from PIL import EpsImagePlugin, Image

from cafe.datasets import open_image as module
from cafe.datasets.image_formats import SUFFIXES, can_open, sniff
from cafe.datasets.open_image import count_scans, open_image, read_image_file
from cafe.errors import ImageError


def encoded(
    kind: str, size: tuple[int, int] = (40, 36), mode: str = "RGB", **options: object
) -> bytes:
    stream = io.BytesIO()
    draw_image(1, size).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [*SUFFIXES, "MPO"])
def test_formats_are_told_by_their_first_bytes(kind: str) -> None:
    if kind == "HEIF" or not can_open(kind.replace("MPO", "JPEG")):
        pytest.skip("not written by this Pillow")
    content = encoded(kind)
    name = kind.replace("MPO", "JPEG")
    assert sniff(content[:64]) == name
    with open_image(content) as image:
        assert image.size == (40, 36)


HEADS = {
    b"\xff\xd8\xff\xe1": "JPEG",
    b"GIF87a": "GIF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"P5\n# made by hand\n3 3\n": "PPM",
    b"P4 3 3\n": "PPM",
    b"Pf\n3 3\n-1.0\n": "PPM",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1": "AVIF",
    b"\0\0\0\x1cftypmif1\0\0\0\0avifmiaf": "AVIF",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIF",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIF",
    b"": None,
    b"\xff\xd8": None,
    b"%!PS-Adobe-3.0 EPSF-3.0": None,
    b"BMW has models with P1 engines and such": None,
    b"P1 is a list of things": None,
    b"RIFF\x10\0\0\0WAVEfmt ": None,
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom": None,
    b"8BPS\0\1": None,
    b"<svg xmlns=": None,
    b"\0" * 64: None,
}


@pytest.mark.parametrize("head", HEADS)
def test_heads(head: bytes) -> None:
    assert sniff(head) == HEADS[head]


def test_no_other_format_is_opened_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An EPS would start Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "EPS"  # Pillow alone takes it
    for name in ("x.jpg", "x.eps"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ImageError, match="cannot identify an image in it; cafe reads AVIF, BMP"
        ):
            open_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["PSD", "PCX", "TGA", "ICO", "SGI", "ICNS"])
def test_formats_off_the_list(kind: str) -> None:
    content = b"8BPS\0\1" if kind == "PSD" else encoded(kind, (32, 32))
    with pytest.raises(ImageError, match="cannot identify"):
        open_image(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"words", "cannot identify an image"),
        (b"GIF89a", "begins as GIF, and is damaged"),
    ],
)
def test_what_is_no_image(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(content)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FILE_BYTES", 99)
    (tmp_path / "x.png").write_bytes(bytes(100))
    with pytest.raises(ImageError, match="has 100 bytes, and cafe reads images of up to 99"):
        read_image_file(tmp_path / "x.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG of zeros, without the memory of its pixels."""

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + -(-width // 8)) * min(height, 100)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12_000, 12_000), (1, 140_000_000), (140_000_000, 1)])
def test_more_pixels_than_the_budget(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            ImageError, match=f"{size[0]} x {size[1]} pixels are more than the 134,2"
        ):
            open_image(png_of(*size))
        with pytest.raises(Image.DecompressionBombError):
            open_image(png_of(100_000, 100_000))


@pytest.mark.parametrize(("kind", "most"), [("WEBP", 67), ("JPEG2000", 53), ("AVIF", 107)])
def test_decoders_that_take_more_memory_have_less_room(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_open(kind):
        pytest.skip("this Pillow was built without it")
    assert module._MOST_MEMORY // module._PIXEL_BYTES[kind] // 1_000_000 == most
    monkeypatch.setattr(module, "_MOST_MEMORY", 40 * 36 * module._PIXEL_BYTES[kind] - 1)
    with pytest.raises(ImageError, match=f"40 x 36 pixels are more than the .* decodes of {kind}"):
        open_image(encoded(kind))


def test_a_tile_is_part_of_the_budget() -> None:
    tags = {256: 9, 257: 9, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    data = zlib.compress(bytes(1000))
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    with pytest.raises(ImageError, match="40000 x 40000 pixels are more"):
        open_image(head + entries + bytes(4) + data)


def test_numbers_in_words_are_part_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = b"P2 9 9 255\n" + b"1 " * 81
    assert open_image(plain).size == (9, 9)
    monkeypatch.setattr(module, "_MOST_TEXT", 99)
    with pytest.raises(ImageError, match="173 bytes of numbers in words take too long"):
        open_image(plain)


def with_scans(jpeg: bytes, count: int) -> bytes:
    """The JPEG with its last scan repeated, as header alone."""
    start = jpeg.rindex(b"\xff\xda")
    length = int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return jpeg[:start] + jpeg[start : start + 2 + length] * count + jpeg[start:]


def test_scans_are_counted_between_segments() -> None:
    plain, progressive = encoded("JPEG"), encoded("JPEG", progressive=True)
    assert count_scans(plain) == 1
    assert count_scans(progressive) == 10
    assert count_scans(with_scans(progressive, 500)) == 510
    assert count_scans(plain + b"\xff\xda" * 99) == 1  # a film that a phone puts behind the image
    thumbnail = encoded("JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 99)
    assert count_scans(thumbnail) == 1
    assert count_scans(b"\xff\xd8") == 0


def test_a_jpeg_that_goes_over_its_pixels_for_minutes_is_refused() -> None:
    small = with_scans(encoded("JPEG", progressive=True), 3000)
    with open_image(small) as image:  # of few pixels: it is done in no time
        image.load()
    large = with_scans(encoded("JPEG", (6000, 6000), "L", progressive=True), 3000)
    assert len(large) < 400_000
    start = time.perf_counter()
    with pytest.raises(ImageError, match="3,006 scans of 6000 x 6000 pixels take too long"):
        open_image(large)
    assert time.perf_counter() - start < 2


PARTS = {
    "PNG": lambda image: image[:33] + chunk(b"teXt", b"") * 500_000 + image[33:],
    "PNG behind its pixels": lambda image: (
        image[:-12] + chunk(b"teXt", b"") * 500_000 + image[-12:]
    ),
    "JPEG": lambda image: image[:2] + b"\xff\xfe\0\2" * 600_000 + image[2:],
    "JPEG behind its pixels": lambda image: image[:-2] + b"\xff\xfe\0\2" * 99_999 + image[-2:],
    "GIF": lambda image: image[: 13 + 768] + b"!\xf0\1x\0" * 400_000 + image[13 + 768 :],
    "PPM": lambda _: b"P6 #" + b"x" * 1_100_000 + b"\n9 9 255\n" + bytes(243),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_file_of_many_parts_is_not_read_to_its_end(kind: str) -> None:
    name = kind.split()[0]
    if not can_open(name):
        pytest.skip("this Pillow was built without it")
    content = PARTS[kind](encoded(name))
    start = time.perf_counter()
    with pytest.raises(ImageError, match="it is made of too many parts"):
        open_image(content).load()
    assert time.perf_counter() - start < 20  # on a loaded machine


def test_a_large_file_of_each_format_has_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.effect_noise((400, 400), 99).convert("RGB")
    for kind in SUFFIXES:
        if kind == "HEIF" or not can_open(kind):
            continue
        stream = io.BytesIO()
        noise.save(stream, kind)
        image = open_image(stream.getvalue())
        stream = image.fp
        image.load()
        assert stream.reads < 3_000, kind  # type: ignore[union-attr]


def test_a_usual_progressive_jpeg_of_the_largest_size_is_within_the_budget() -> None:
    assert module._MOST_SCANNED > 13 * (1 << 27)


def test_the_state_of_a_file_that_just_changed_is_not_relied_on(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG"))
    state = read_image_file(path).state
    assert state.mtime_ns == 0
    assert (state.size, state.ctime_ns) == (path.stat().st_size, path.stat().st_ctime_ns)
