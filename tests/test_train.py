"""A model of all labelled images: what it is fitted on, what is said of it, where it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import Answer, call, digits_run
from letters import draw_letters
from making import make_header
from PIL import Image

import cafe
from cafe.errors import CacheMismatchError, CafeError, InputError
from cafe.features.splits import draw_folds
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet, join
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.results.estimate import Share, make_estimate
from cafe.results.model_record import changes
from cafe.results.saved_model import MODEL, ModelNotFoundError, read_model
from cafe.store import Block, write_cache
from cafe.store.files import lock_file
from cafe.study.estimate import FOLDS, nested_choice_hits
from cafe.study.fit_on_all import fit_on_all

Run = Callable[..., Answer]


def make_cache(
    path: Path, sizes: dict[str, list[int]], source: str = "", dataset: str = "noise"
) -> cafe.FeatureCache:
    """Features around their class text; images of each class by split."""
    classes = len(next(iter(sizes.values())))
    header = make_header(classes, dataset=dataset, source=source)
    text = header.text_features.mean(axis=1)
    blocks = {}
    for number, (split, counts) in enumerate(sizes.items()):
        noise = np.random.default_rng(number)
        y = np.repeat(np.arange(classes), counts).astype(np.int32)
        x = text[y] + noise.normal(0, 1.2, (len(y), text.shape[1]))
        ids = [f"{split}/{row}.png" for row in range(len(y))]
        blocks[split] = [Block(ids, y, x.astype(np.float32))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_cache(path, header, blocks)
    return cafe.FeatureCache.open(path)


def test_every_image_is_fitted_on_and_every_label_judged_once(tmp_path: Path) -> None:
    sizes = {"train": [9, 7, 12], "val": [3, 3, 3], "test": [5, 4, 8]}
    cache = make_cache(tmp_path / "a/b.c.h5", sizes, "cafe's split: so and so")
    model = cafe.train(cache, method="gda")
    assert model.record.images == (17, 14, 23)
    estimate = model.record.estimate
    assert estimate is not None
    assert (estimate.source, estimate.folds, estimate.images) == ("cross-validation", FOLDS, 54)
    assert [share.images for share in estimate.per_class] == [17, 14, 23]
    # the plain loop: one fit without each fold, and one with all
    task = load_task(cache)
    images = join([split.to("cpu") for split in task.splits.values()])
    gda = make_method("gda", Context(), {})
    right = torch.zeros(54, dtype=torch.bool)
    for kept, out in draw_folds(images.y, 0, FOLDS):
        head = gda.fit(TrainingSet(images[kept], task.text))
        right[out] = head.logits(images.x[out]).argmax(dim=1) == images.y[out]
    assert estimate.accuracy == pytest.approx(100 * right.float().mean().item())
    assert [share.right for share in estimate.per_class] == [
        int(right[images.y == label].sum()) for label in range(3)
    ]
    whole = gda.fit(TrainingSet(images, task.text))
    torch.testing.assert_close(model.saved.head.logits(images.x), whole.logits(images.x))
    assert model.record.calibration.source == "out-of-fold"
    assert model.record.calibration.images == 54


def test_a_test_split_of_its_own_judges(tmp_path: Path) -> None:
    sizes = {"train": [9, 9, 9], "val": [2, 2, 2], "test": [5, 4, 8]}
    cache = make_cache(tmp_path / "a/b.c.h5", sizes, "split file split_zhou.json")
    model = cafe.train(cache, method="lda-prior")
    estimate, task = model.record.estimate, load_task(cache)
    assert estimate is not None
    assert (estimate.source, estimate.folds, estimate.images) == ("test split", 1, 17)
    rest = join([task.splits[name].to("cpu") for name in ("train", "val")])
    head = make_method("lda-prior", Context(), {}).fit(TrainingSet(rest, task.text))
    test = task.splits["test"]
    right = (head.logits(test.x).argmax(dim=1) == test.y).float().mean().item()
    assert estimate.accuracy == pytest.approx(100 * right)
    assert model.record.images == (16, 15, 19)  # the head that is kept has seen them too
    assert "test split of 17 images, by a head that was fitted on all others" in model.record.words


def test_of_several_methods_the_best_on_held_out_images_is_kept(tmp_path: Path) -> None:
    task = load_task(make_cache(tmp_path / "a/b.c.h5", {"train": [30, 30, 30]}))
    names = ["zero-shot", "gda", "nearest-class"]
    alone = {}
    for name in names:
        estimate = fit_on_all(task, [name]).estimate
        assert estimate is not None
        alone[name] = estimate.accuracy
    fitted = fit_on_all(task, names)
    assert fitted.estimate is not None
    assert alone[fitted.head.method] == max(alone.values())
    assert fitted.estimate.accuracy <= max(alone.values())
    assert fitted.rivals == {n: a for n, a in alone.items() if n != fitted.head.method}


def test_a_choice_does_not_judge_itself() -> None:
    """Two methods of chance: each is the better on one half, and the other half chooses it."""
    right = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    group, losses = torch.tensor([0, 0, 1, 1]), torch.zeros(2, 4)
    assert nested_choice_hits(right, losses, group).tolist() == [False] * 4
    same = right[:1].repeat(2, 1)
    assert nested_choice_hits(same, losses, group).tolist() == same[0].tolist()
    assert nested_choice_hits(right, losses, torch.zeros(4)).tolist() == right[0].tolist()


def test_tiny_classes(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [1, 3, 2]})
    estimate = (model := cafe.train(cache, method="gda")).record.estimate
    assert estimate is not None
    assert [share.images for share in estimate.per_class] == [0, 3, 2]
    assert "The only image of a class is not judged; there are 1 of these." in model.record.words
    alone = cafe.train(make_cache(tmp_path / "a/d.e.h5", {"train": [1, 1, 1]}))
    assert alone.record.estimate is None
    assert alone.record.calibration.temperature is None
    assert "not known: no class has two images" in alone.record.words
    alone.save(tmp_path / "model")
    again = cafe.load_model(tmp_path / "model")
    assert again.record == alone.record
    assert "Unknown: no class had two images" in (tmp_path / "model/README.md").read_text()


def test_the_interval_is_wilsons() -> None:
    estimate = make_estimate([Share(50, 45), Share(50, 36)], "cross-validation", 10, None)
    assert (estimate.accuracy, estimate.images) == (81.0, 100)
    # 81 of 100, by the formula of Wilson (1927)
    z, p, n = 1.959964, 0.81, 100
    middle, half = p + z * z / 2 / n, z * ((p * (1 - p) + z * z / 4 / n) / n) ** 0.5
    scale = 100 / (1 + z * z / n)
    assert estimate.low == pytest.approx(scale * (middle - half), abs=1e-3)
    assert estimate.high == pytest.approx(scale * (middle + half), abs=1e-3)
    assert Share(0, 0).accuracy is None


def test_another_precision_is_another_model(tmp_path: Path) -> None:
    cache, folder = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]}), tmp_path / "model"
    first = cafe.train(cache, method="gda", precision="fp32", output=folder)
    assert first.record.precision == "fp32"
    assert cafe.train(cache, method="gda", precision="fp32", output=folder).was_there
    second = cafe.train(cache, method="gda", precision="bf16", output=folder)
    assert not second.was_there
    assert cafe.load_model(folder).record.precision == "bf16"


def test_a_model_folder_is_whole_and_found_again(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    folder = tmp_path / "model"
    first = cafe.train(cache, method="gda", output=folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", MODEL, first.record.head}
    assert cafe.train(cache, method="gda", output=folder).was_there
    loaded = cafe.load_model(folder)
    assert loaded.record == first.record
    assert loaded.classes_.tolist() == ["class 0", "class 1", "class 2"]
    x = torch.randn(5, 8)
    torch.testing.assert_close(loaded.saved.probabilities(x), first.saved.probabilities(x))
    assert first.record.head_sha256[:12] in first.record.head

    larger = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9, 4]})
    second = cafe.train(larger, method="lda-prior", output=folder)
    assert {p.name for p in folder.iterdir()} == {"README.md", MODEL, second.record.head}
    told = changes(cafe.load_model(folder).record)
    assert told[:3] == [
        "images: 27 -> 31",
        "new classes: class 3",
        "method: gda -> lda-prior",
    ]
    assert told[3].startswith("estimated accuracy: ")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_is_in_the_way_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    monkeypatch.setattr("cafe.inference.train.fit_on_all", lambda *_, **__: pytest.fail("fitted"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("notes", "file"):
        with pytest.raises(InputError, match="is there and holds no model; choose another"):
            cafe.train(cache, output=tmp_path / name)
    with pytest.raises(CafeError, match="file"):
        cafe.train(cache, output=tmp_path / "file/model")
    with (
        lock_file(tmp_path / "busy"),
        pytest.raises(CafeError, match="another process is writing"),
    ):
        cafe.train(cache, output=tmp_path / "busy")
    with pytest.raises(InputError, match="vt-clip needs more than image and text features"):
        cafe.train(cache, method="vt-clip")
    with pytest.raises(InputError, match="unknown method"):
        cafe.train(cache, method="gdaa")
    with pytest.raises(InputError, match="has no setting 'alfa'"):
        cafe.train(cache, method="gda", alfa=1)
    assert (tmp_path / "notes/mine.txt").read_text() == "precious"


def test_a_model_of_another_dataset_stays(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    other = make_cache(tmp_path / "d/b.c.h5", {"train": [9, 9, 9]}, dataset="birds")
    model = cafe.train(cache, method="gda", output=tmp_path / "model")
    for action in (
        lambda: cafe.train(other, method="gda", output=tmp_path / "model"),
        lambda: cafe.train(other, method="gda").save(tmp_path / "model"),
    ):
        with pytest.raises(InputError, match="is a model of 'noise', not of 'birds'"):
            action()
    assert cafe.load_model(tmp_path / "model").record == model.record


def test_a_failed_write_leaves_the_older_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    first = cafe.train(cache, method="gda", output=tmp_path / "model")

    def full(source: Path, target: Path) -> None:
        if target.name == MODEL:
            raise OSError(28, "No space left on device")
        source.replace(target)

    monkeypatch.setattr("cafe.results.saved_model.move", full)
    with pytest.raises(CafeError, match="No space left"):
        cafe.train(cache, method="lda-prior", output=tmp_path / "model")
    assert cafe.load_model(tmp_path / "model").record == first.record


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    for name, method in (("one", "gda"), ("two", "lda-prior")):
        cafe.train(cache, method=method, output=tmp_path / name)
    one, two = (tmp_path / name / read_model(tmp_path / name).head for name in ("one", "two"))
    shutil.copy(two, one)
    with pytest.raises(InputError, match=r"is not the head that .*model\.json' was saved with"):
        cafe.load_model(tmp_path / "one")
    with pytest.raises(InputError, match="is not the head"):
        cafe.Predictor.load(tmp_path / "one")
    one.unlink()
    with pytest.raises(InputError, match="has lost 'head-"):
        cafe.load_model(tmp_path / "one")
    assert not cafe.train(cache, method="gda", output=tmp_path / "one").was_there
    assert cafe.load_model(tmp_path / "one").record.method == "gda"
    (tmp_path / "two" / MODEL).unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no model\.json; 'cafe train' makes one"):
        cafe.load_model(tmp_path / "two")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head", "../../etc/passwd"),
        ("head", 5),
        ("images", [1, 2]),
        ("estimate", {"accuracy": 200}),
        ("class_names", ["one"]),
        ("method", "a/b"),
    ],
)
def test_an_edited_model_json_is_one_line(tmp_path: Path, field: str, value: object) -> None:
    cache = make_cache(tmp_path / "a/b.c.h5", {"train": [9, 9, 9]})
    cafe.train(cache, method="gda", output=tmp_path / "model")
    path = tmp_path / "model" / MODEL
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(CafeError) as found:
        cafe.load_model(tmp_path / "model")
    assert "\n" not in str(found.value)
    if field != "head":
        with pytest.raises(InputError, match="remove it, or choose another folder with output="):
            cafe.train(cache, method="gda", output=tmp_path / "model")
    assert str(tmp_path / "model") in str(found.value)


@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = digits_run(tmp_path_factory)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: call(monkeypatch, capsys, *words)


def test_images_go_in_and_names_come_out(work: Path, run: Run, tmp_path: Path) -> None:
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    model = cafe.train(cache, method="gda", output=tmp_path / "model")
    (tmp_path / "broken.png").write_bytes(b"no image")
    photos = ["photos/three.png", Image.open("photos/three.png"), tmp_path / "broken.png"]
    assert model.predict(photos).tolist() == ["three", "three", None]
    p = cafe.load_model(tmp_path / "model").predict_proba(photos)
    assert p.shape == (3, 10)
    np.testing.assert_allclose(p[:2].sum(axis=1), 1, atol=1e-6)
    assert np.isnan(p[2]).all()
    assert model.classes_[p[0].argmax()] == "three"
    assert repr(model).startswith("Model gda of digits, nano.glyphs\n")
    assert "1,797" in repr(model)
    answer = run("predict", tmp_path / "model", "photos", "--format", "jsonl")
    assert json.loads(answer.out)["label"] == "three"
    assert answer.code == 0
    answer = run("predict", tmp_path / "model", "photos", "--shots", "4")
    assert answer.code == 2
    assert "is one model; " in answer.err
    answer = run("export", tmp_path / "model", "-o", tmp_path / "head.safetensors")
    assert answer.code == 0
    with pytest.raises(CacheMismatchError, match="not the encoder of the head"):
        cafe.load_model(tmp_path / "model", model="nano", pretrained="none").predict(photos)


def test_a_folder_of_one_class_is_refused(run: Run, tmp_path: Path) -> None:
    draw_letters(tmp_path / "photos", "A", 2)
    answer = run("train", tmp_path / "photos", "--model", "nano", "-o", tmp_path / "model")
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("cafe: ")
    assert "has images of one class only, 'A'" in line
    assert not (tmp_path / "model").exists()


def test_the_command_line(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = ("train", "digits", "--cache", "cache", "--method", "gda,zero-shot", "-o", folder)
    answer = run(*words)
    assert answer.code == 0, answer.err
    assert "by 10-fold cross-validation on 1,797 images" in answer.out
    assert f"Next: cafe predict {folder} new-images/" in answer.out
    record = json.loads((folder / MODEL).read_text())
    (look,) = (line for line in answer.out.splitlines() if line.startswith("Are the labels right?"))
    assert "Look: cafe check digits --cache cache." in look
    assert look.endswith(f"cafe serve {folder}")
    assert "gda, which was better than zero-shot on held-out images" in answer.out
    assert record["command"].startswith("cafe train digits")
    assert record["rivals"].keys() == {"zero-shot"}
    again = run(*words, "--json")
    values = json.loads(again.out)
    assert values["was_there"] is True
    assert values["estimate"] == record["estimate"]
    assert "is there already, made of the same images" in run(*words).out
    lines = run("train", "digits", "-o", folder, "--method", ",").err.splitlines()
    assert lines[-1].startswith("cafe: ")


def test_the_options_of_extract_and_fit(run: Run, tmp_path: Path) -> None:
    draw_letters(tmp_path / "photos", "OX", 4)
    names = tmp_path / "names.json"
    names.write_text('{"O": "circle", "X": "cross"}')
    words = ("train", tmp_path / "photos", "--model", "nano", "--cache", tmp_path / "cache")
    words += ("--name", "letters", "--class-names", names, "-o", tmp_path / "model")
    words += ("--method", "clip-adapter", "--epochs", "2", "--lr", "0.01")
    answer = run(*words, "--ratio", "0.3", "--bottleneck", "8", "--weight-decay", "0.1")
    assert answer.code == 0, answer.err
    assert "letters/nano.glyphs: 8 images encoded." in answer.err
    assert "Fitted on all 8 labelled images: clip-adapter. (--verbose tells more.)" in answer.out
    record = read_model(tmp_path / "model")
    assert (record.dataset, record.class_names) == ("letters", ("circle", "cross"))
    given = {"ratio": 0.3, "bottleneck": "8", "epochs": 2, "lr": 0.01, "weight_decay": 0.1}
    assert dict(record.settings) == given
    again = run(*words, "--ratio", "0.5", "--verbose")
    assert "is there already" not in again.out
    assert record.words in again.out
    several = run(*words, "--ratio", "0.1,0.9")
    assert (several.code, "training takes one ratio" in several.err) == (2, True)
    names.write_text('{"O": "ring", "X": "cross"}')
    assert run(*words).code != 0  # other prompts need --rebuild
    assert run(*words, "--rebuild").code == 0
    assert read_model(tmp_path / "model").class_names == ("ring", "cross")
