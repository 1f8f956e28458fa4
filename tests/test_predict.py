"""New images to labels: the right ones, in order, as sure as they should be, or a clear reason."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import Answer, call, digits_run
from making import make_dataset
from PIL import Image

import cafe
from cafe.datasets.prompts import fill
from cafe.encoders.encoder import Encoder
from cafe.errors import CafeError, ImageError, InputError
from cafe.extract import encode_images
from cafe.extract.decode import DecodedImage
from cafe.extract.extract import extract
from cafe.features.splits import draw_shots
from cafe.inference.neighbours import NeighbourIndex
from cafe.inference.prediction import ClassScore, Prediction
from cafe.results.runs import HeadSelector, find_head
from cafe.results.saved_head import load_head
from cafe.study.calibration import cautious_temperature

Run = Callable[..., Answer]


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on digits, as working directory; shared, so nothing is changed in it."""
    folder = digits_run(tmp_path_factory)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: call(monkeypatch, capsys, *words)


@pytest.fixture
def predictor(work: Path) -> cafe.Predictor:
    return cafe.Predictor.load("runs/mine", device="cpu")


def lines(answer: Answer) -> list[dict[str, object]]:
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


def one_line(answer: Answer, code: int, *texts: str) -> None:
    assert answer.code == code, answer
    told = [line for line in answer.err.splitlines() if line.startswith("cafe: ")]
    assert len(told) == 1
    for text in texts:
        assert text in told[0]


def test_new_images_get_what_their_cached_features_get(run: Run, work: Path) -> None:
    words = ("--method", "clip-adapter", "--format", "jsonl", "--top", "2")
    found = lines(run("predict", "runs/mine", "digits", *words))
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    saved = cafe.load_head("runs/mine/clip-adapter.4shot.seed0.safetensors")
    place = {name: row for row, name in enumerate(cache.ids("test"))}
    paths = sorted(map(str, Path("digits").rglob("*.png")))
    assert [one["image"] for one in found] == paths
    rows = [place[Path(path).stem] for path in paths]
    expected = saved.probabilities(torch.from_numpy(cache.read("test", rows).features))
    for one, row in zip(found, expected, strict=True):
        assert list(one) == ["image", "label", "probability", "top"]
        assert one["probability"] == pytest.approx(row.max().item(), abs=1e-4)
        assert one["label"] == saved.class_names[int(row.argmax())]
        top = one["top"]
        assert isinstance(top, list)
        assert top[0] == {"label": one["label"], "probability": one["probability"]}
        assert top[1]["probability"] == pytest.approx(row.sort().values[-2].item(), abs=1e-4)


def test_batches_do_not_change_answers(predictor: cafe.Predictor) -> None:
    small = list(predictor.predict("digits", batch_size=3, workers=2))
    large = list(predictor.predict("digits", batch_size=64))
    assert [one.label for one in small] == [one.label for one in large]
    assert [one.image for one in small] == [one.image for one in large]


def test_what_cannot_be_read_is_skipped_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    whole = Path("photos/three.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not looked at in a folder")
    answer = run("predict", "runs/mine", tmp_path, "photos/three.png", "gone.png")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].endswith("photos/three.png")
    for text in ("broken.png: cannot identify", "cut.png: ", "gone.png: there is no such file"):
        assert text in answer.err
    assert "3 of 4 images could not be read" in answer.err
    assert "notes.txt" not in answer.err
    assert "left out: files of no image format that cafe reads (1: .txt)" in answer.err
    one_line(run("predict", "runs/mine", tmp_path), 1, "none of 2 images could be read")
    (tmp_path / "none").mkdir()
    one_line(run("predict", "runs/mine", tmp_path / "none"), 1, "no image is there")


def test_odd_images_say_what_plain_ones_say(predictor: cafe.Predictor, tmp_path: Path) -> None:
    plain = Image.open("photos/three.png").convert("RGB").resize((60, 60))
    exif = Image.Exif()
    exif[274] = 6
    plain.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    plain.convert("RGBA").save(tmp_path / "clear.png")
    plain.save(tmp_path / "plain.webp", lossless=True)
    wide = np.asarray(plain.convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "wide.tiff")
    for one in predictor.predict([plain, tmp_path]):
        assert one.label == "three", one
        assert one.reason == ""


def test_images_are_read_as_answers_are_taken(
    predictor: cafe.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def count(source: encode_images.ImageSource, preprocess: object) -> DecodedImage:
        read.append(source)
        return DecodedImage(None, "counted")

    monkeypatch.setattr(encode_images, "decode_path", count)
    answers = predictor.predict(["photo.png"] * 1000, batch_size=2, workers=2)
    assert next(answers).reason == "counted"
    assert len(read) < 20


def test_progress_and_bad_arguments(predictor: cafe.Predictor) -> None:
    seen: list[tuple[int, int]] = []
    photos = ["photos/three.png"] * 3
    list(predictor.predict(photos, batch_size=2, progress=lambda _, n, m: seen.append((n, m))))
    assert seen == [(2, 3), (3, 3)]
    for bad in ({"top": 0}, {"unknown_below": 1.5}, {"batch_size": 0}, {"workers": 0}):
        with pytest.raises(InputError, match="must be"):
            predictor.predict("photos", **bad)  # type: ignore[arg-type]


def test_explanations(run: Run) -> None:
    words = ["--format", "jsonl", "--explain"]
    (found,) = lines(run("predict", "runs/mine", "photos", *words))
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    shots = draw_shots(torch.from_numpy(cache.labels("train")), 4, 0).tolist()
    drawn = {cache.ids("train")[row] for row in shots}
    assert found["zero_shot"].keys() == {"label", "probability"}  # type: ignore[attr-defined]
    nearest = found["nearest"]
    assert isinstance(nearest, list)
    assert [one["cosine"] for one in nearest] == sorted(
        (n["cosine"] for n in nearest), reverse=True
    )
    assert {one["image"] for one in nearest} <= drawn
    for text in ("zero-shot: ", "near to ", "cosine"):
        assert text in run("predict", "runs/mine", "photos", "--explain").out


def test_a_training_image_is_its_own_evidence(work: Path) -> None:
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    saved = cafe.load_head(find_head("runs/mine"))
    row = int(draw_shots(torch.from_numpy(cache.labels("train")), 4, 0)[5])
    x = torch.from_numpy(cache.read("train", [row]).features)
    ((first, *_),) = NeighbourIndex.of_head(saved, cache).nearest(x, 2)
    assert first.image == cache.ids("train")[row]
    assert first.cosine == pytest.approx(1)


def test_without_the_cache_the_rest_is_explained(run: Run, tmp_path: Path) -> None:
    head = shutil.copy("runs/mine/clip-adapter.4shot.seed1.safetensors", tmp_path / "alone")
    photo = Path("photos").absolute()
    Path(tmp_path / "else").mkdir()
    answer = run("predict", head, photo, "--explain", "--cache", tmp_path / "else")
    assert answer.code == 0
    assert "zero-shot: " in answer.out


def test_unknown(run: Run) -> None:
    words = ["--unknown-below", "1", "--format"]
    (found,) = lines(run("predict", "runs/mine", "photos", *words, "jsonl"))
    assert found["label"] is None
    assert found["top"][0]["label"] == "three"  # type: ignore[index]
    assert (
        run("predict", "runs/mine", "photos", *words, "table").out.splitlines()[1][:7] == "unknown"
    )
    one_line(
        run("predict", "runs/mine", "photos", "--unknown-below", "70"),
        2,
        "--unknown-below 70.0 must be",
    )
    assert Prediction("a", (ClassScore("x", 0.5),), unknown_below=0.5).label == "x"


def test_csv(run: Run) -> None:
    answer = run("predict", "runs/mine", "digits", "--format", "csv", "--top", "3")
    rows = list(csv.reader(io.StringIO(answer.out)))
    header = ["image", "label", "probability", "label_2", "probability_2", "label_3"]
    assert rows[0] == [*header, "probability_3"]
    assert {len(row) for row in rows} == {7}
    assert len(rows) == 1 + len(list(Path("digits").rglob("*.png")))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["gone"], 1, "'gone' is neither a run nor a head's file"),
        (["photos"], 1, "'photos' holds no run"),
        (["photos/three.png"], 2, "is not a head that cafe saved"),
        (["runs/mine", "--method", "clip-adaptor"], 2, "did you mean clip-adapter"),
        (["runs/mine", "--shots", "2"], 2, "no head of --shots 2; it has 1, 4"),
        (["runs/mine", "--shots", "1,4"], 2, "one shot count"),
        (["runs/mine", "--seed", "7"], 2, "no head of --seed 7; it has 0, 1"),
        (
            ["runs/mine", "--pretrained", "none"],
            1,
            "is not the encoder of the head: the encoder has other weights",
        ),
        (["runs/mine", "--top", "0"], 2, "top must be at least 1"),
    ],
)
def test_refusals(run: Run, words: list[str], code: int, text: str) -> None:
    one_line(run("predict", *words[:1], "photos", *words[1:]), code, text)


def test_which_head_is_taken(work: Path) -> None:
    record = json.loads(Path("runs/mine/record.json").read_text())
    judged = [row for row in record["results"] if row["shots"] == 4]
    best = max(judged, key=lambda row: float(row["calibration"]["accuracy"]))
    assert find_head("runs").name == f"{best['method']}.4shot.seed0.safetensors"
    selector = HeadSelector("nearest-class", 1, 1)
    assert find_head("runs/mine", selector).name == "nearest-class.1shot.seed1.safetensors"
    with pytest.raises(InputError, match="is one head"):
        find_head(find_head("runs"), selector)


def test_imported_features_have_no_encoder(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    arrays = {"text_prompts": noise.normal(size=(2, 8)).astype(np.float32)}
    for split in ("train", "test"):
        arrays[f"{split}_features"] = noise.normal(size=(4, 8)).astype(np.float32)
        arrays[f"{split}_labels"] = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "x.npz", allow_pickle=False, class_names=np.array(["a", "b"]), **arrays)
    cache = cafe.import_features(tmp_path / "x.npz", tmp_path / "cache/x/toy.test.h5")
    cafe.fit(cache, shots=2, seeds=1, epochs=1, runs=tmp_path / "runs", device="cpu")
    one_line(run("predict", tmp_path / "runs", "photos"), 2, "were imported", "cafe extract")


def test_an_encoder_of_ones_own_is_given_again(
    run: Run, tmp_path: Path, tiny_folder: Path, tiny: Encoder
) -> None:
    dataset = make_dataset(tmp_path / "images", {"train": 8, "test": 4})
    path = tmp_path / "cache/shapes/tiny.local.h5"
    extract(dataset, tiny, path, sentences=fill(dataset.class_names, dataset.templates))
    cafe.fit(path, shots=2, seeds=1, epochs=1, runs=tmp_path / "runs", device="cpu")
    photos = tmp_path / "images/test"
    one_line(run("predict", tmp_path / "runs", photos), 1, "'tiny'", "--model and --pretrained")
    answer = run("predict", tmp_path / "runs", photos, "--model", tiny_folder, "--format", "jsonl")
    assert len(lines(answer)) == 4


def test_temperatures_are_kept_and_used(work: Path) -> None:
    record = json.loads(Path("runs/mine/record.json").read_text())
    for result in record["results"]:
        found, shots = result["calibration"], result["shots"]
        assert found["source"] == ("none" if shots == 1 else "out-of-fold")
        assert found["images"] == (0 if shots == 1 else 40)
        assert (found["temperature"] is None) == (shots == 1)
    saved = load_head(find_head("runs/mine", HeadSelector("clip-adapter")))
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    assert saved.temperature == record["results"][-1]["calibration"]["temperature"]
    expected = torch.softmax(saved.head.logits(x) / saved.temperature, -1)
    assert torch.equal(saved.probabilities(x), expected)


def test_no_temperature_is_told(run: Run) -> None:
    answer = run("predict", "runs/mine", "photos", "--shots", "1")
    assert answer.code == 0
    assert "not calibrated" in answer.err


def test_validation_images_calibrate_where_they_may_be_looked_at(work: Path) -> None:
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    record = cafe.fit(cache, shots=2, seeds=2, validation="full", epochs=2, runs=None, device="cpu")
    found = record.json["results"][-1]["calibration"]
    assert (found["source"], found["images"]) == ("validation", 2 * 200)
    assert 0.01 < found["temperature"] < 100


def test_the_temperature_is_likeliest_and_cautious() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 5, generator=generator)
    y = torch.multinomial(torch.softmax(z, -1), 1, generator=generator).squeeze(1)
    assert cautious_temperature(3 * z, y) == pytest.approx(3, rel=0.05)
    right = torch.eye(5).repeat(4, 1) * 10  # 20 images, all right
    found = cautious_temperature(right, torch.arange(5).repeat(4))
    assert torch.softmax(right / found, -1).max() == pytest.approx(20 / 21 + 1 / 105, abs=1e-3)
    assert cautious_temperature(torch.zeros(3, 2), torch.tensor([0, 0, 1])) == 1


def test_errors_are_cafes(work: Path) -> None:
    with pytest.raises(CafeError, match="holds no run"):
        cafe.Predictor.load("digits")


def test_probabilities_of_all_classes(predictor: cafe.Predictor) -> None:
    answers = list(predictor.predict("digits", top=10))
    found = predictor.predict_proba("digits", batch_size=5)
    assert found.shape == (len(answers), 10)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    for row, answer in zip(found, answers, strict=True):
        assert predictor.classes_[row.argmax()] == answer.label
        named = dict(zip(predictor.classes_, row, strict=True))
        assert {one.label: one.probability for one in answer.top} == pytest.approx(named, abs=1e-4)


def test_arrays_and_tensors_are_predicted_as_their_files(predictor: cafe.Predictor) -> None:
    pixels = np.asarray(Image.open("photos/three.png").convert("RGB"))
    tensor = torch.from_numpy(pixels.copy()).movedim(2, 0)
    inputs = ["photos/three.png", pixels, tensor, tensor / 255]
    answers = list(predictor.predict(inputs))
    assert [one.label for one in answers] == ["three"] * 4
    assert [one.image for one in answers[1:]] == ["image 1", "image 2", "image 3"]
    assert [one.label for one in predictor.predict(tensor[None])] == ["three"]
    rows = predictor.predict_proba(inputs)
    np.testing.assert_allclose(rows, rows[:1].repeat(4, axis=0), atol=1e-4)


def test_probabilities_of_what_cannot_be_read(predictor: cafe.Predictor, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = ["photos/three.png", tmp_path / "broken.png", np.zeros((3, 9, 9))]
    with pytest.raises(ImageError, match=r"broken.png' cannot be read .* on_error='skip'"):
        predictor.predict_proba(images, on_error="fail")
    rows = predictor.predict_proba(images)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, True]
