"""Large JPEGs are scaled while they are decoded: nearly the same pixels, in the key, and told."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import Answer, call
from making import draw_image
from PIL import Image
from test_preprocess import CONFIG

import cafe
from cafe.datasets.open_image import open_image
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.decoding import DECODING, Decode, decode_of
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Preprocess, quiet_pillow, upright_rgb
from cafe.errors import CacheMismatchError, InputError
from cafe.extract.encode_images import decode_source
from cafe.store.merge import merge_caches

SCALED = "16-bit scaled, RGB, scaled to >= 2x"


def textured(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth colours under noise of single pixels."""
    noise = np.random.default_rng(seed).normal(0, 12, (size[1], size[0], 3))
    values = 40 + 0.7 * np.asarray(draw_image(seed, size), np.float32) + noise
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    image.save(buffer, "jpeg", quality=90, exif=exif, **options)
    return buffer.getvalue()


def preprocess(decode: Decode = "scaled", **config: Any) -> Preprocess:
    return Preprocess({**CONFIG, **config}).decoding(decode)


def opened(file: bytes, way: Preprocess, augmentation: Augmentation | None = None) -> Image.Image:
    image = open_image(file)
    return upright_rgb(image, way.scale(image, augmentation))


def size_of(file: bytes, way: Preprocess, augmentation: Augmentation | None = None) -> Any:
    return opened(file, way, augmentation).size


FILES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: jpeg(textured((640, 480))),
    "odd": lambda: jpeg(textured((641, 479))),
    "upright": lambda: jpeg(textured((401, 777))),
    "panorama": lambda: jpeg(textured((2000, 200))),
    "grey": lambda: jpeg(textured((640, 480)).convert("L")),
    "CMYK": lambda: jpeg(textured((640, 480)).convert("CMYK")),
    "progressive": lambda: jpeg(textured((640, 480)), progressive=True),
    "all colours sampled": lambda: jpeg(textured((640, 480)), subsampling=0),
    **{f"EXIF {n}": lambda n=n: jpeg(textured((641, 402)), n) for n in range(2, 9)},
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(("size", "interpolation"), [(24, "bicubic"), ((36, 18), "bilinear")])
def test_pixels_are_nearly_those_of_exact_decoding(
    kind: str, resize_mode: str, size: Any, interpolation: str
) -> None:
    file = FILES[kind]()
    config = {"size": size, "resize_mode": resize_mode, "interpolation": interpolation}
    exact, scaled = (preprocess(way, **config) for way in ("exact", "scaled"))
    whole, small = size_of(file, exact), size_of(file, scaled)
    assert small[0] < whole[0] / 1.9
    assert small[1] < whole[1] / 1.9
    height, width = scaled.size
    assert small[0] >= 2 * width
    assert small[1] >= 2 * height
    a, b = (way.pixels(opened(file, way)).astype(np.float64) for way in (exact, scaled))
    assert np.sqrt(((a - b) ** 2).mean()) < 1.5


@pytest.mark.parametrize(
    ("size", "scale"),
    [((96, 96), 2), ((95, 400), 1), ((192, 192), 4), ((384, 384), 8), ((9, 5), 1)],
)
def test_no_side_becomes_less_than_twice_the_input(size: tuple[int, int], scale: int) -> None:
    file = jpeg(draw_image(0, size))
    assert size_of(file, preprocess(size=24)) == (size[0] // scale, size[1] // scale)
    assert size_of(file, preprocess("exact", size=24)) == size


@pytest.mark.parametrize("orientation", [1, 6])
def test_sides_are_compared_upright(orientation: int) -> None:
    file = jpeg(draw_image(0, (400, 100)), orientation)
    # twice 100 x 25, or 25 x 100
    scales = {
        size: 400 // max(size_of(file, preprocess(size=size))) for size in ((25, 100), (100, 25))
    }
    assert scales == (
        {(25, 100): 2, (100, 25): 1} if orientation == 1 else {(25, 100): 1, (100, 25): 2}
    )


def test_crops_are_of_more_pixels() -> None:
    file, way = jpeg(draw_image(0, (400, 300))), preprocess(size=24)
    augmentation = Augmentation(30)
    assert size_of(file, way) == (100, 75)
    assert size_of(file, way, Augmentation(1)) == (100, 75)
    image = opened(file, way, augmentation)
    assert image.size == (200, 150)
    assert min(min(crop.size) for crop in augmentation.crops(image, "a")) >= 48


@pytest.mark.parametrize("form", ["png", "tiff", "webp", "gif"])
def test_other_formats_are_decoded_exactly(form: str) -> None:
    buffer = io.BytesIO()
    draw_image(0, (400, 300)).save(buffer, form)
    assert size_of(buffer.getvalue(), preprocess(size=24)) == (400, 300)


def test_images_in_memory_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(textured((400, 300))))
    image = Image.open(path)
    views = decode_source(image, preprocess(size=24)).views
    assert image.size == (400, 300)
    exact = decode_source(path, preprocess("exact", size=24)).views
    assert views is not None
    assert exact is not None
    assert np.array_equal(views, exact)


@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_the_budget_is_that_of_the_whole_file(
    decode: Decode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.jpg"
    Image.new("L", (16_000, 9000)).save(path)  # 144 million pixels, a few million once scaled
    with quiet_pillow():
        found = decode_source(path, preprocess(decode, size=24))
    assert found.views is None
    assert found.reason.startswith("16000 x 9000 pixels are more than the 134,217,728")
    held: list[int] = []

    def hold(pixels: int) -> nullcontext[None]:
        return nullcontext(held.append(pixels))

    monkeypatch.setattr("cafe.extract.decode._ROOM.hold", hold)
    path.write_bytes(jpeg(draw_image(0, (400, 300)), progressive=True))
    decode_source(path, preprocess(decode, size=24))
    assert held == [120_000]  # libjpeg keeps all coefficients of a progressive file


def test_a_truncated_jpeg_is_an_error() -> None:
    file = jpeg(textured((640, 480)))
    with pytest.raises(OSError, match="truncated"):
        upright_rgb(open_image(file[: len(file) // 2]), 4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of JPEGs, ten times as large as the input of `nano`."""
    for label, name in enumerate(("round", "square")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for row in range(8):
            file = jpeg(textured((400, 300), 10 * label + row), 1 + row)
            (tmp_path / f"photos/{name}/{row}.jpg").write_bytes(file)
    return tmp_path / "photos"


def extractor(decode: Any = "auto") -> cafe.Extractor:
    return cafe.Extractor("nano", device="cpu", precision="fp32", decode=decode)


def test_new_caches_scale_and_old_ones_decide_for_themselves(photos: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    new = extractor().extract(photos, cache=tmp_path / "new")
    assert new.header.key["decoding"].endswith(SCALED)
    exact = extractor("exact").extract(photos, cache=home)
    assert exact.header.key["decoding"] == DECODING["exact"]
    again = extractor()
    assert again.extract(photos, cache=home).content_sha256 == exact.content_sha256
    assert again.extraction_.was_there
    with pytest.raises(CacheMismatchError, match=r"decoding is .*RGB, asked for .* >= 2x"):
        extractor("scaled").extract(photos, cache=home)
    with pytest.raises(CacheMismatchError, match=r"decoding is .* >= 2x, asked for .*RGB"):
        extractor("exact").extract(photos, cache=tmp_path / "new")
    rebuilt = extractor().extract(photos, cache=home, rebuild=True)
    assert rebuilt.content_sha256 == new.content_sha256


def test_an_unfinished_extraction_goes_on_as_it_began(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cafe.extract.extract.write_cache", kill)
        with pytest.raises(KeyboardInterrupt):
            extractor("exact").extract(photos, cache=tmp_path)
    again = extractor()
    assert again.extract(photos, cache=tmp_path).header.key["decoding"] == DECODING["exact"]
    assert again.extraction_.images == 0  # every block was finished


def test_caches_of_different_decoding_are_not_merged(photos: Path, tmp_path: Path) -> None:
    caches = [extractor(way).extract(photos, cache=tmp_path / way) for way in ("exact", "scaled")]
    with pytest.raises(CacheMismatchError, match=r"decoding is .*RGB, here .* >= 2x"):
        merge_caches(caches, tmp_path / "both.h5")


@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_files_are_predicted_as_the_cache_was_made(
    decode: Decode, photos: Path, tmp_path: Path
) -> None:
    cache = extractor(decode).extract(photos, cache=tmp_path / "cache")
    cafe.fit(cache, method="nearest-class", shots=2, seeds=1, device="cpu", runs=tmp_path / "runs")
    split = cache.read("test")
    paths = [str(photos / name) for name in cache.ids("test")]
    other = extractor("exact" if decode == "scaled" else "scaled").encoder()
    loaded = cafe.Predictor.load(tmp_path / "runs", device="cpu")
    expected = loaded.saved.probabilities(torch.from_numpy(split.features).float())
    for predictor in (loaded, cafe.Predictor(loaded.saved, other)):
        assert decode_of(predictor.encoder.key()) == decode
        np.testing.assert_allclose(predictor.predict_proba(paths), expected, atol=1e-5)
    differ = np.abs(extractor(decode).encode(paths) - split.features).max()
    assert (
        differ < 1e-4 < np.abs(extractor("exact").encode(paths) - extractor().encode(paths)).max()
    )


def test_encode_follows_the_last_extraction(photos: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.jpg")))
    exact = extractor("exact")
    exact.extract(photos, cache=tmp_path)
    follows = extractor()
    scaled = follows.encode(paths)
    assert not np.array_equal(scaled, exact.encode(paths))
    follows.extract(photos, cache=tmp_path)
    np.testing.assert_array_equal(follows.encode(paths), exact.encode(paths))
    np.testing.assert_array_equal(
        cafe.CLIPFeatures("nano", device="cpu", precision="fp32").transform(paths), scaled
    )


def test_features_are_nearly_the_same(photos: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.jpg")))
    a, b = (torch.from_numpy(extractor(way).encode(paths)) for way in ("exact", "scaled"))
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999


def test_another_word_is_refused() -> None:
    words = r"unknown decode 'half'; use auto, exact or scaled\."
    with pytest.raises(InputError, match=words):
        extractor("half")
    other: Any = "half"
    with pytest.raises(InputError, match=words):
        cafe.CLIPFeatures("nano", decode=other, device="cpu").fit([Image.new("RGB", (9, 9))])


def test_an_encoder_keeps_its_network(tiny: Encoder) -> None:
    assert tiny.decoding("exact") is tiny
    assert tiny.decoding("scaled")._network is tiny._network
    assert tiny.preprocess.decode == "exact"


def test_on_the_command_line(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: str) -> Answer:
        return call(monkeypatch, capsys, *words, "--model", "nano", "--device", "cpu")

    monkeypatch.chdir(tmp_path)
    assert run("extract", "photos", "--decode", "exact").code == 0
    assert "is there already" in run("extract", "photos").out
    refused = run("extract", "photos", "--decode", "scaled")
    assert (refused.code, len(refused.err.splitlines())) == (1, 1)
    assert "decoding is" in refused.err
    assert "--rebuild" in refused.err
    train = ("train", "photos", "--method", "nearest-class")
    assert run(*train, "-o", "first").code == 0
    assert cafe.load_model("first").predictor.encoder.preprocess.decode == "exact"
    assert run(*train, "-o", "second", "--decode", "scaled", "--rebuild").code == 0
    assert cafe.load_model("second").predictor.encoder.preprocess.decode == "scaled"
    assert run("train", "photos", "--decode", "half").code == 2
