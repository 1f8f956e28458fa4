"""`cafe check` finds what was planted, and takes whatever cache it is given."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import draw_image, make_block, make_header

import cafe
from cafe.curation.findings import Check
from cafe.curation.fix_splits import fix_splits
from cafe.curation.label_errors import find_label_errors, fit_judges, usual_method
from cafe.curation.near_duplicates import find_neighbours, find_pairs, group
from cafe.curation.outliers import find_outliers
from cafe.curation.page import next_step, write_check_page
from cafe.curation.suggestions import read_suggestions
from cafe.errors import CafeError, InputError
from cafe.features.tensors import ClassText, Features
from cafe.store import Block, FeatureCache
from cafe.store.write import write_cache
from cafe_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = Path(__file__).parents[2] / "shared/data/features"


def clusters(classes: int, each: int, width: int = 32, noise: float = 0.5) -> Features:
    """Images around one direction per class."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=g)
    y = torch.arange(classes).repeat_interleave(each)
    return Features(centres[y] + noise * torch.randn(len(y), width, generator=g), y)


def text_of(images: Features, classes: int) -> ClassText:
    means = torch.stack([images.unit[images.y == c].mean(dim=0) for c in range(classes)])
    return ClassText(means[:, None], tuple(f"c{c}" for c in range(classes)), 100.0)


def flipped(y: torch.Tensor, classes: int, share: float = 0.1) -> tuple[torch.Tensor, set[int]]:
    g = np.random.default_rng(0)
    rows = g.choice(len(y), round(share * len(y)), replace=False)
    labels = y.clone()
    labels[rows] = (labels[rows] + torch.from_numpy(g.integers(1, classes, len(rows)))) % classes
    return labels, set(rows.tolist())


def save(path: Path, images: Features, text: ClassText | None, test_from: int = 0) -> FeatureCache:
    """A cache of two splits, or of one."""
    classes, width = int(images.y.max()) + 1, images.x.shape[1]
    features = np.zeros((classes, 1, width), np.float32) if text is None else text.features.numpy()
    header = make_header(classes=classes, width=width, prompts=1, text_features=features)
    test_from = test_from or len(images)
    parts = {"train": slice(0, test_from), "test": slice(test_from, len(images))}
    blocks = {
        name: iter(
            [
                Block(
                    [f"{name}/{row}.png" for row in range(len(images))[part]],
                    images.y[part].numpy().astype(np.int32),
                    images.x[part].numpy(),
                )
            ]
        )
        for name, part in parts.items()
        if len(images.y[part])
    }
    write_cache(path, header, blocks)
    return FeatureCache.open(path)


def test_flipped_labels_are_found_and_clean_ones_are_not() -> None:
    images = clusters(6, 20)
    text = text_of(images, 6)
    clean = fit_judges(images, text, "lda-prior")
    assert len(find_label_errors(clean, images.y)) <= 2
    labels, wrong = flipped(images.y, 6)
    noisy = Features(images.x, labels)
    errors = find_label_errors(fit_judges(noisy, text, "lda-prior"), labels)
    found = {error.row for error in errors}
    assert len(found & wrong) >= 0.75 * len(wrong)
    assert len(found & wrong) >= 0.9 * len(found)
    assert all(e.proposed == images.y[e.row] for e in errors if e.row in wrong)


def test_it_counts_as_cleanlab_does() -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab, the oracle, is not installed")
    images = clusters(5, 30, noise=1.5)
    labels, _ = flipped(images.y, 5, 0.2)
    judges = fit_judges(Features(images.x, labels), text_of(images, 5), "lda-prior")
    p = np.zeros((len(labels), 5))
    for rows, block in judges.blocks():
        p[rows.numpy()] = block.numpy()
    theirs = count.num_label_issues(labels.numpy(), p, estimation_method="off_diagonal_calibrated")
    own = p[np.arange(len(labels)), labels]
    picks = [r for r in np.argsort(own, kind="stable") if p[r].argmax() != labels[r]][:theirs]
    ours = [error.row for error in find_label_errors(judges, labels)]
    assert abs(len(ours) - len(picks)) <= 2
    shared = min(len(ours), len(picks))
    assert ours[:shared] == [int(row) for row in picks[:shared]]


def test_texts_that_say_nothing_do_not_judge() -> None:
    images = clusters(6, 20)
    text = text_of(images, 6)
    assert usual_method(images, text) == "auto"
    shifted = ClassText(text.features.roll(1, dims=0), text.names, text.logit_scale)
    assert usual_method(images, shifted) == "map-probe"


def test_strokes_that_look_alike_are_no_copies() -> None:
    """Many images of one form, each a little different, and one true copy among them."""
    g = torch.Generator().manual_seed(0)
    form = 200 * torch.rand(32, 32, generator=g)
    grey = (form + 25 * torch.randn(20, 32, 32, generator=g)).clamp(0, 255)
    grey[1] = grey[0] + torch.randn(32, 32, generator=g)
    x = torch.randn(1, 64, generator=g) + 0.05 * torch.randn(20, 64, generator=g)
    x[1] = x[0] + 0.01
    pairs = find_pairs(find_neighbours(x), grey.clamp(0, 255).byte().numpy())
    assert [(p.first, p.second) for p in pairs] == [(0, 1)]
    # of a few pixels only what is near by its features too is a copy
    near, small = find_neighbours(x), grey.clamp(0, 255).byte().numpy()
    assert find_pairs(near, small, is_tiny=np.ones(20, bool)) == pairs
    x[1] = x[2] + 0.01
    apart = find_pairs(find_neighbours(x), small, is_tiny=np.ones(20, bool))
    assert (0, 1) not in [(p.first, p.second) for p in apart]


def test_copies_are_found_by_features_alone() -> None:
    images = clusters(4, 25, width=64)
    x = torch.cat([images.x, images.x[:3], images.x[5:8] + 0.01, torch.zeros(2, 64)])
    pairs = find_pairs(find_neighbours(x))
    expected = {(0, 100), (1, 101), (2, 102), (5, 103), (6, 104), (7, 105)}
    assert {(p.first, p.second) for p in pairs} == expected
    many = torch.cat([images.x, images.x[:1].repeat(30, 1)])
    (rows,) = group(find_pairs(find_neighbours(many)), len(many))
    assert rows == [0, *range(100, 130)]


def test_an_outlier_is_found() -> None:
    images = clusters(4, 25, width=64, noise=0.3)
    x = torch.cat([images.x, torch.randn(1, 64, generator=torch.Generator().manual_seed(5))])
    assert [row for row, _ in find_outliers(find_neighbours(x))][:1] == [100]


def test_a_leak_is_counted_and_fixed(tmp_path: Path) -> None:
    images = clusters(3, 20)
    x = torch.cat([images.x, images.x[:3], images.x[30:50]])
    y = torch.cat([images.y, images.y[:3], images.y[30:50]])
    x[-17:] += torch.randn(17, 32, generator=torch.Generator().manual_seed(1))
    found = cafe.check(save(tmp_path / "c.h5", Features(x, y), text_of(images, 3), 60))
    leaked = {image.id for image in found.leaked}
    assert {f"test/{row}.png" for row in range(60, 63)} <= leaked
    text = fix_splits(found, tmp_path / "splits.csv").read_text()
    assert "test/60.png,class 0,train" in text
    with pytest.raises(InputError, match="no copies"):
        fix_splits(
            cafe.check(save(tmp_path / "d.h5", clusters(3, 20), None, 50)), tmp_path / "s.csv"
        )


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(("classes", "each"), [(2, 1), (5, 1), (3, 2), (1000, 2)])
def test_it_takes_any_cache(tmp_path: Path, classes: int, each: int, with_text: bool) -> None:
    images = clusters(classes, each, width=16)
    text = text_of(images, classes) if with_text else None
    found = cafe.check(save(tmp_path / "c.h5", images, text), method="lda-prior" if text else None)
    assert found.images == classes * each
    json.dumps(found.json, allow_nan=False)
    assert any("pixels" in line or "features alone" in line for line in found.notes)
    file = found.write_suggestions(tmp_path / "s.csv")
    assert read_suggestions(file) == found.suggestions


def test_one_class_has_no_label_errors() -> None:
    images = clusters(1, 12)
    judges = fit_judges(images, text_of(images, 1), "linear-probe")
    assert find_label_errors(judges, images.y) == []


def test_features_of_zeros_are_outliers_and_no_copies(tmp_path: Path) -> None:
    images = clusters(2, 10)
    images.x[3:6] = 0
    found = cafe.check(save(tmp_path / "c.h5", images, None))
    assert [f.image.id for f in found.outliers[:3]] == [f"train/{row}.png" for row in (3, 4, 5)]
    assert found.copies == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, a cropped copy in the other class, a blank and a tiny image."""
    for label, name in enumerate(("left", "right")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for row in range(8):
            draw_image(10 * label + row, (64, 60)).save(tmp_path / f"photos/{name}/{row}.png")
    copy = draw_image(0, (64, 60)).crop((3, 2, 62, 58)).resize((90, 85))
    copy.save(tmp_path / "photos/right/b.jpg", quality=80)
    draw_image(1).resize((1, 1)).resize((64, 64)).save(tmp_path / "photos/left/blank.png")
    draw_image(99, (9, 9)).save(tmp_path / "photos/left/tiny.png")
    return tmp_path / "photos"


def test_a_folder_is_encoded_and_looked_at(photos: Path, tmp_path: Path) -> None:
    notes = list[str]()
    found = cafe.check(photos, model="nano", cache=tmp_path / "cache", note=notes.append)
    assert [(f.image.id, f.problem) for f in found.useless] == [
        ("left/blank.png", "blank"),
        ("left/tiny.png", "tiny"),
    ]
    assert ["left/0.png", "right/b.jpg"] in [
        sorted(image.id for image in c.images) for c in found.copies
    ]
    page = write_check_page(found, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page
    assert "http" not in page.replace("http-equiv", "")
    assert next_step(found, Path("suggestions.csv")) in page
    assert "Almost blank or tiny: 2</a>" in page
    assert "left/<wbr>blank.png" in page  # a long path wraps at its folders


def test_the_encoder_and_words_of_the_cache_go_on(photos: Path, tmp_path: Path) -> None:
    """Somebody who trained with another encoder than the default checks without naming it."""
    words = ["a drawing of {}"]
    cafe.Extractor("nano").extract(photos, template=words, cache=tmp_path / "cache")
    notes = list[str]()
    found = cafe.check(
        photos, template=words, method="lda-prior", cache=tmp_path / "cache", note=notes.append
    )
    assert found.encoder == "nano.glyphs"
    assert "encoder: nano, as in the cache photos/nano.glyphs." in notes


def test_names_are_escaped_on_the_page(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "left", photos / "<script>alert(1)<\u202e")
    shutil.rmtree(photos / "left")
    found = cafe.check(photos, model="nano", cache=tmp_path / "cache")
    page = write_check_page(found, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\u202e" not in page  # it would turn what stands after it


def test_a_choice_is_never_overwritten(tmp_path: Path) -> None:
    found = cafe.check(save(tmp_path / "c.h5", clusters(2, 10), None))
    assert isinstance(found, Check)
    first = found.write_suggestions(tmp_path / "s.csv")
    second = found.write_suggestions(tmp_path / "s.csv")
    assert (first.name, second.name) == ("s.csv", "s-2.csv")
    with pytest.raises(CafeError, match="cannot write"):
        found.write_suggestions(tmp_path / "absent" / "s.csv")


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CafeError):
        cafe.check("nothing-of-that-name", cache=tmp_path)
    with pytest.raises(InputError, match="coop needs more"):
        cafe.check("digits", method="coop", cache=tmp_path)


def test_the_commands(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table and page, JSON alone on stdout, a split without a leak that is extracted."""
    monkeypatch.chdir(photos.parent)

    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["cafe", *words])
        main()
        return capsys.readouterr().out

    options = ("--model", "nano", "--method", "lda-prior")
    table = run("check", "photos", *options, "-o", "check.html", "--fix-splits")
    assert "likely label errors" in table
    assert Path("check.html").is_file()
    assert Path("suggestions.csv").is_file()
    found = json.loads(run("check", "photos", *options, "--json"))
    assert found["suggestions"] == "suggestions-2.csv"
    assert found["test_images_leaked"] > 0  # by the hash of their paths
    run("extract", "photos", "--model", "nano", "--split-file", "splits.csv")
    again = json.loads(run("check", "photos/nano.glyphs", "--images", "photos", "--json"))
    assert again["test_images_leaked"] == 0


def test_blocks_of_noise_are_no_suggestions(tmp_path: Path) -> None:
    write_cache(tmp_path / "n.h5", make_header(), {"train": iter([make_block(30)])})
    found = cafe.check(FeatureCache.open(tmp_path / "n.h5"), method="lda-prior")
    assert found.copies == []


def test_what_comes_next_is_what_can_be_done(photos: Path, tmp_path: Path) -> None:
    found = cafe.check(photos, model="nano", method="lda-prior", cache=tmp_path / "cache")
    assert next_step(found, Path("s.csv")).endswith("cafe relabel s.csv --yes")
    cached = replace(found, origin={})
    assert next_step(cached, Path("s.csv")).endswith("cafe relabel s.csv DATASET")
    shipped = replace(found, origin={"dataset": "a-name-of-cafe-datasets"})
    assert "no use here" in next_step(shipped, Path("s.csv"))
