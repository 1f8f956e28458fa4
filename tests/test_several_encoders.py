"""Several encoders over one dataset: each image is decoded once, and the caches are the same."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from making import TINY, draw_image
from safetensors.torch import save_file

import cafe
from cafe.encoders.encoder import load_encoder
from cafe.errors import InputError
from cafe.extract import decode
from cafe.results.leaderboard import other_test_images
from cafe.store import FeatureCache
from cafe_cli.main import main

SETTINGS = {"device": "cpu", "precision": "fp32", "batch_size": 2, "workers": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two encoders of other input sizes, with weights of their own."""
    folders = []
    for name, size in (("small", 32), ("large", 48)):
        model, preprocess = TINY["model_cfg"], TINY["preprocess_cfg"]
        vision = {**model["vision_cfg"], "image_size": size}  # type: ignore[dict-item]
        config = {
            "model_cfg": {**model, "vision_cfg": vision},
            "preprocess_cfg": {**preprocess, "size": size},
        }
        folder = tmp_path_factory.mktemp("models") / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        network = load_encoder(str(folder), "none", device="cpu", precision="fp32")._network
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        folders.append(str(folder))
    return folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, label in enumerate(("ash", "birch")):
        for row in range(20):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            draw_image(100 * number + row).save(tmp_path / f"photos/{label}/{row}.png")
    (tmp_path / "photos/ash/broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


def extractors(models: list[str]) -> list[cafe.Extractor]:
    return [cafe.Extractor(name, **SETTINGS) for name in models]  # type: ignore[arg-type]


def test_each_image_is_decoded_once_and_the_caches_are_the_same(
    models: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [e.extract(photos, cache=tmp_path / "alone") for e in extractors(models)]
    decoded: Counter[tuple[int, int]] = Counter()
    real = decode.upright_rgb

    def count(image: object, scale: int) -> object:
        decoded[image.getpixel((3, 3))] += 1  # type: ignore[attr-defined]
        return real(image, scale)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "upright_rgb", count)
    calls: list[tuple[int, int]] = []
    first, second = extractors(models)
    first.extract(
        photos,
        cache=tmp_path / "cache",
        also=[second],
        progress=lambda _, done, total: calls.append((done, total)),
    )
    assert set(decoded.values()) == {1}
    assert sum(decoded.values()) == 40
    assert calls[-1] == (82, 82)
    assert calls == sorted(calls)
    for one, extractor in zip(alone, (first, second), strict=True):
        done = extractor.extraction_
        assert (done.images, done.skipped) == (40, 1)
        assert FeatureCache.open(done.path).content_sha256 == one.content_sha256


def test_encoders_share_no_scale_that_one_alone_would_not_take(
    models: list[str], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for number in range(8):
        (photos / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        # a quarter of each side is twice 32, not twice 48
        draw_image(number, (300, 300)).save(photos / "ab"[number % 2] / f"{number}.jpg")
    alone = [e.extract(photos, cache=tmp_path / "alone") for e in extractors(models)]
    first, second = extractors(models)
    first.extract(photos, cache=tmp_path / "both", also=[second])
    for one, extractor in zip(alone, (first, second), strict=True):
        assert FeatureCache.open(extractor.extraction_.path).content_sha256 == one.content_sha256


def test_an_interrupted_pass_goes_on(models: list[str], photos: Path, tmp_path: Path) -> None:
    def stop(_split: str, done: int, _total: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    first, second = extractors(models)
    with pytest.raises(KeyboardInterrupt):
        first.extract(photos, cache=tmp_path / "cache", also=[second], progress=stop)
    assert not list((tmp_path / "cache").rglob("*.h5"))
    first.extract(photos, cache=tmp_path / "cache", also=[second])
    encoded = [extractor.extraction_.images for extractor in (first, second)]
    assert all(count < 40 for count in encoded)  # finished blocks of both were kept
    assert len(list((tmp_path / "cache").rglob("*.h5"))) == 2


def test_one_that_is_there_and_one_that_is_not(
    models: list[str], photos: Path, tmp_path: Path
) -> None:
    first, second = extractors(models)
    first.extract(photos, cache=tmp_path / "cache")
    draw_image(999).save(photos / "ash/new.png")
    first.extract(photos, cache=tmp_path / "cache", also=[second])
    assert (first.extraction_.images, second.extraction_.images) == (1, 41)
    first.extract(photos, cache=tmp_path / "cache", also=[second])
    assert first.extraction_.was_there
    assert second.extraction_.was_there


def test_pixels_that_wait_are_bounded(
    models: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cafe.extract.several_encoders._MOST_WAITING", 0)
    alone = [e.extract(photos, cache=tmp_path / "alone") for e in extractors(models)]
    first, second = extractors(models)
    first.extract(photos, cache=tmp_path / "cache", also=[second])
    for one, extractor in zip(alone, (first, second), strict=True):
        path = extractor.extraction_.path
        assert FeatureCache.open(path).content_sha256 == one.content_sha256


def test_one_model_twice_is_refused(models: list[str], photos: Path, tmp_path: Path) -> None:
    first, second = extractors([models[0], models[0]])
    with pytest.raises(InputError, match="two of these models have one cache"):
        first.extract(photos, cache=tmp_path / "cache", also=[second])


def _mean_at_two(row: list[str]) -> float:
    """Of a row `small.local gda 50.00 ± 1.00 *52.00 ± 0.00`."""
    return float([word for word in row[2:] if "." in word][2].strip("*"))


def test_encoders_stand_side_by_side(
    models: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
        assert not main()
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    named = ("--model", ",".join(models), "--precision", "fp32", "--device", "cpu")
    out = run("extract", "--dataset", "photos", *named)
    assert "Next: cafe compare photos" in out
    settings = ("--methods", "zero-shot,gda", "--shots", "1,2", "--seeds", "2", "--device", "cpu")
    table = [line.split() for line in run("compare", "photos", *settings).splitlines()]
    rows = [line for line in table if line and line[0] in ("small.local", "large.local")]
    assert len(rows) == 4
    assert {tuple(row[:2]) for row in rows} == {
        (encoder, method)
        for encoder in ("small.local", "large.local")
        for method in ("zero-shot", "gda")
    }
    text = run("compare", "photos", *settings, "--format", "csv")
    read = list(csv.DictReader(text.splitlines()))
    assert len(read) == 8
    assert {row["encoder"] for row in read} == {"small.local", "large.local"}
    at_two = [float(row["accuracy"]) for row in read if row["shots"] == "2"]
    bold = [float(row[4].strip("*")) if row[3] == "±" else 0.0 for row in rows]
    assert len(at_two) == len(bold) == 4
    assert len(cafe.compare("photos", methods=["gda"], shots=1, seeds=1, runs=None).records) == 2


def test_other_test_images_are_told(models: list[str], photos: Path, tmp_path: Path) -> None:
    first, second = extractors(models)
    one = first.extract(photos, cache=tmp_path / "cache", also=[second])
    other = FeatureCache.open(second.extraction_.path)
    assert other_test_images([one, other]) == ""
    for row in range(20):
        draw_image(900 + row).save(photos / f"ash/new {row}.png")
    told = other_test_images([first.extract(photos, cache=tmp_path / "cache"), other])
    assert "photos/small.local and photos/large.local have different test images" in told
