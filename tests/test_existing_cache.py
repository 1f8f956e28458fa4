"""A cache follows its folder: only what is new is encoded, and no other image moves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import draw_image

from cafe.datasets import load_dataset
from cafe.datasets.prompts import fill
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.errors import CacheMismatchError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.dataset_diff import Changes, cached_splits
from cafe.extract.extract import Extraction, extract
from cafe.store import FeatureCache, verify_cache, write_cache

SMALL = ExtractOptions(batch_size=1, workers=1)  # blocks of 8 images; features without a batch


def save(root: Path, name: str, seed: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    draw_image(seed).save(root / name)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twelve images."""
    root = tmp_path / "photos"
    for number, label in enumerate(("ash", "birch")):
        for row in range(12):
            save(root, f"{label}/{row}.png", 100 * number + row)
    return root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "photos" / "tiny.local.h5"


def run(root: Path, encoder: Encoder, path: Path, **changes: Any) -> Extraction:
    dataset = load_dataset(root)
    sentences = fill(dataset.class_names, dataset.templates)
    return extract(dataset, encoder, path, **{"sentences": sentences, "options": SMALL, **changes})


def rows(path: Path) -> dict[str, tuple[str, str, bytes]]:
    """Split, class and feature of every image."""
    cache = FeatureCache.open(path)
    return {
        name: (split, cache.header.class_names[label], feature.tobytes())
        for split in cache.counts
        for name, label, feature in zip(
            cache.ids(split), cache.labels(split), cache.read(split).features, strict=True
        )
    }


def anew(root: Path, encoder: Encoder, path: Path) -> dict[str, tuple[str, str, bytes]]:
    other = path.with_name("anew.x.h5")
    run(root, encoder, other, rebuild=True)
    return rows(other)


def add(root: Path) -> None:
    for row in range(3):
        save(root, f"ash/new {row}.png", 900 + row)


def add_a_class(root: Path) -> None:
    for row in range(5):
        save(root, f"beech/{row}.png", 900 + row)  # between the other two


def remove(root: Path) -> None:
    (root / "ash/3.png").unlink()
    (root / "birch/0.png").unlink()


def remove_a_class(root: Path) -> None:
    save(root, "cedar/0.png", 900)
    shutil.rmtree(root / "ash")


def relabel(root: Path) -> None:
    for row in (1, 2):
        (root / f"ash/{row}.png").rename(root / f"birch/was ash {row}.png")


def replace(root: Path) -> None:
    save(root, "birch/5.png", 900)


def rename(root: Path) -> None:
    (root / "birch/5.png").rename(root / "birch/five.png")


def duplicate(root: Path) -> None:
    shutil.copy(root / "birch/5.png", root / "birch/5 (copy).png")


def touch(root: Path) -> None:
    for row in range(12):
        os.utime(root / f"birch/{row}.png")


def much(root: Path) -> None:
    for change in (add, remove, relabel, replace):
        change(root)


CHANGES: dict[Callable[[Path], None], tuple[str, int, int]] = {
    add: ("3 added", 3, 24),
    add_a_class: ("5 added", 5, 24),
    remove: ("2 removed", 0, 22),
    remove_a_class: ("1 added, 12 removed", 1, 12),
    relabel: ("2 relabelled", 0, 22),
    replace: ("1 replaced", 1, 23),
    rename: ("1 moved", 0, 23),
    duplicate: ("1 added", 0, 24),
    much: ("3 added, 2 removed, 1 replaced, 2 relabelled", 4, 19),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_is_new_is_encoded(
    change: Callable[[Path], None], photos: Path, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    before = rows(path)
    change(photos)
    done = run(photos, tiny, path)
    said, encoded, kept = CHANGES[change]
    assert (str(done.changes), done.images, done.changes.kept) == (said, encoded, kept)
    after, fresh = rows(path), anew(photos, tiny, path)
    assert verify_cache(path).problems == ()
    assert {name: row[1:] for name, row in after.items()} == {
        name: row[1:] for name, row in fresh.items()
    }
    for name in before.keys() & after.keys():
        assert after[name][0] == before[name][0]
    again = run(photos, tiny, path)
    assert (again.was_there, again.by_content) == (True, True)


def test_a_relabelled_image_stays_in_its_split(photos: Path, tiny: Encoder, path: Path) -> None:
    run(photos, tiny, path)
    before = rows(path)
    relabel(photos)
    run(photos, tiny, path)
    for row in (1, 2):
        split, label, feature = rows(path)[f"birch/was ash {row}.png"]
        assert (split, feature) == before[f"ash/{row}.png"][::2]
        assert label == "birch"


def test_touched_files_are_current(photos: Path, tiny: Encoder, path: Path) -> None:
    run(photos, tiny, path)
    touch(photos)
    assert run(photos, tiny, path).was_there


def test_a_split_of_an_older_rule_is_kept(photos: Path, tiny: Encoder, path: Path) -> None:
    dataset = load_dataset(photos)
    turned = dict(zip(("train", "val", "test"), ("test", "train", "val"), strict=True))
    splits = {turned[split]: items for split, items in dataset.splits.items()}
    sentences = fill(dataset.class_names, dataset.templates)
    older = dataclasses.replace(dataset, splits=splits, unsplit=())
    extract(older, tiny, path, sentences=sentences, options=SMALL)
    before = rows(path)
    assert run(photos, tiny, path).was_there
    add(photos)
    assert run(photos, tiny, path).images == 3
    after = rows(path)
    assert {name: after[name] for name in before} == before
    assert "keep their split" in FeatureCache.open(path).header.source


def test_texts_that_are_there_are_copied(
    photos: Path, tiny: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, tiny, path)
    before = FeatureCache.open(path).header
    encoded: list[str] = []
    real = Encoder.encode_text
    monkeypatch.setattr(Encoder, "encode_text", lambda s, t: [encoded.extend(t), real(s, t)][1])
    add_a_class(photos)
    run(photos, tiny, path)
    after = FeatureCache.open(path).header
    assert after.class_names == ("ash", "beech", "birch")
    assert len(encoded) == len(before.sentences[0])
    assert all("beech" in sentence for sentence in encoded)
    assert np.array_equal(after.text_features[::2], before.text_features)


def test_changed_prompts_are_refused_and_on_request_encoded_alone(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    before, whole = rows(path), path.read_bytes()
    sentences = [["the ash"], ["the birch"]]
    message = (
        r"2 of 2 classes have other prompts: .* for 'ash', asked for 'the ash'.*With rebuild=True"
    )
    with pytest.raises(CacheMismatchError, match=message):
        run(photos, tiny, path, sentences=sentences)
    assert path.read_bytes() == whole
    add(photos)
    done = run(photos, tiny, path, sentences=sentences, rebuild=True)
    assert (done.images, done.changes.kept) == (3, 24)
    assert FeatureCache.open(path).header.sentences == (("the ash",), ("the birch",))
    assert before.items() <= rows(path).items()
    assert run(photos, tiny, path, sentences=sentences, rebuild=True).images == 27


@pytest.mark.parametrize("change", [add, remove, much])
def test_a_stop_in_the_middle_loses_nothing(
    change: Callable[[Path], None], photos: Path, tiny: Encoder, path: Path
) -> None:
    def stop(_split: str, done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    run(photos, tiny, path)
    before = path.read_bytes()
    change(photos)
    for row in range(20):
        save(photos, f"ash/more {row}.png", 500 + row)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tiny, path, options=dataclasses.replace(SMALL, progress=stop))
    assert path.read_bytes() == before
    new = 20 + CHANGES[change][1]
    assert new - 16 <= run(photos, tiny, path).images < new  # one finished block or two
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    after, fresh = rows(path), anew(photos, tiny, path)
    assert after == {n: (after[n][0], *row[1:]) for n, row in fresh.items()}


def test_images_that_could_not_be_read_are_tried_again_beside_new_ones(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    whole = (photos / "ash/0.png").read_bytes()
    (photos / "ash/0.png").write_bytes(b"no image")
    assert run(photos, tiny, path).skipped == 1
    add(photos)
    done = run(photos, tiny, path)
    assert (str(done.changes), done.skipped, done.images) == ("3 added", 1, 3)
    split = cached_splits(FeatureCache.open(path))["ash/0.png"]
    (photos / "ash/0.png").write_bytes(whole)
    done = run(photos, tiny, path)
    assert (str(done.changes), done.skipped, done.images) == ("1 replaced", 0, 1)
    assert rows(path)["ash/0.png"][0] == split


def test_augmented_views_are_drawn_anew_under_another_name(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    options = dataclasses.replace(SMALL, augmentation=Augmentation(views=3))
    run(photos, tiny, path, options=options)
    before = FeatureCache.open(path)
    name = before.ids("train")[0]
    (photos / name).rename((photos / name).with_name("renamed.png"))
    add(photos)
    done = run(photos, tiny, path, options=options)
    assert (str(done.changes), done.images) == ("3 added, 1 moved", 4)
    other = path.with_name("anew.x.h5")
    run(photos, tiny, other, options=options)
    caches = [FeatureCache.open(p) for p in (path, other)]
    mine, theirs = (
        dict(zip(c.ids("train"), np.asarray(c.read("train").views), strict=True)) for c in caches
    )
    for image in mine.keys() & theirs.keys():
        np.testing.assert_array_equal(mine[image], theirs[image])


def test_spatial_maps_follow_too(photos: Path, tiny: Encoder, path: Path) -> None:
    options = dataclasses.replace(SMALL, spatial=2)
    run(photos, tiny, path, options=options)
    much(photos)
    assert run(photos, tiny, path, options=options).images == 4
    other = path.with_name("anew.x.h5")
    run(photos, tiny, other, options=options)
    mine, theirs = (
        {
            image: spatial.tobytes()
            for split in cache.counts
            for image, spatial in zip(cache.ids(split), cache.read_spatial_maps(split), strict=True)
        }
        for cache in map(FeatureCache.open, (path, other))
    )
    assert mine == theirs


def test_another_folder_of_the_name_is_refused(
    photos: Path, tiny: Encoder, path: Path, tmp_path: Path
) -> None:
    run(photos, tiny, path)
    before = path.read_bytes()
    other = tmp_path / "other" / "photos"
    for label in ("ash", "birch"):
        for row in range(12):
            save(other, f"{label}/{row}.png", 500 + 20 * len(label) + row)
    shutil.copy(photos / "ash/0.png", other / "ash/0.png")
    message = "of its 24 images 1 are among the 24 of this 'photos'"
    with pytest.raises(CacheMismatchError, match=message):
        run(other, tiny, path)
    assert path.read_bytes() == before
    assert run(other, tiny, path, rebuild=True).images == 24


def test_another_encoder_takes_over_the_split(photos: Path, tiny: Encoder, path: Path) -> None:
    run(photos, tiny, path)
    relabel(photos)  # its split is not that of its new path
    run(photos, tiny, path)
    other = path.with_name("other.x.h5")
    run(photos, dataclasses.replace(tiny, model="other"), other)
    assert {name: row[0] for name, row in rows(other).items()} == {
        name: row[0] for name, row in rows(path).items()
    }


def test_another_folder_of_the_name_is_refused_for_another_encoder(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    for file in photos.rglob("*.png"):
        save(photos, str(file.relative_to(photos)), 500 + int(file.stem))
    other = path.with_name("other.x.h5")
    with pytest.raises(CacheMismatchError, match=r"of its 24 images 0 are among .* with name="):
        run(photos, tiny, other)
    assert not other.exists()
    assert run(photos, tiny, other, rebuild=True).images == 24


def test_classes_under_other_names_are_refused_and_on_request_renamed(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    before = rows(path)
    dataset = load_dataset(photos, class_names={"ash": "mountain ash"})
    sentences = fill(dataset.class_names, dataset.templates)
    arguments: Any = {"sentences": sentences, "options": SMALL}
    with pytest.raises(CacheMismatchError, match=r"a class has another name \(ash -> mountain"):
        extract(dataset, tiny, path, **arguments)
    done = extract(dataset, tiny, path, rebuild=True, **arguments)
    assert (done.images, done.changes.kept, str(done.changes)) == (0, 24, "")
    assert FeatureCache.open(path).header.class_names == ("mountain ash", "birch")
    assert {name: row[::2] for name, row in rows(path).items()} == {
        name: row[::2] for name, row in before.items()
    }


def test_a_cache_that_knows_no_content_is_not_followed(
    photos: Path, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    cache = FeatureCache.open(path)
    write_cache(path, cache.header, {split: cache.blocks(split) for split in cache.counts})
    add(photos)
    with pytest.raises(CacheMismatchError, match=r"3 new.*as an older cafe made it"):
        run(photos, tiny, path)


def test_splits_of_folders_are_followed(photos: Path, tiny: Encoder, path: Path) -> None:
    root = photos.parent / "split"
    for split, part in (("train", "ash"), ("test", "birch")):
        for label in ("ash", "birch"):
            (root / split).mkdir(parents=True, exist_ok=True)
            shutil.copytree(photos / part, root / split / label)
    for file in (root / "test/birch").iterdir():
        file.write_bytes(file.read_bytes() + b"\0")  # no duplicates
    for file in (root / "train/birch").iterdir():
        file.write_bytes(file.read_bytes() + b"\0\0")
    run(root, tiny, path)
    (root / "test/ash/0.png").rename(root / "train/ash/from test.png")
    done = run(root, tiny, path)
    assert (str(done.changes), done.images) == ("1 moved", 0)
    assert rows(path)["train/ash/from test.png"][0] == "train"


def test_changes_in_words() -> None:
    assert str(Changes(kept=3)) == ""
    assert str(Changes(1200, 1, 0, 2)) == "1,200 added, 1 removed, 2 relabelled"


@pytest.mark.parametrize("is_update", [False, True])
def test_finished_blocks_outlive_a_change_of_the_folder(
    photos: Path, tiny: Encoder, path: Path, tmp_path: Path, is_update: bool
) -> None:
    """Those of images that are the same; the others are encoded again, and nothing else."""
    if is_update:
        run(photos, tiny, path)
    for row in range(40):
        save(photos, f"ash/new-{row:02}.png", 200 + row)

    def stop(_: str, done: int, __: int) -> None:
        if done == 25:  # three blocks are finished by now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tiny, path, options=dataclasses.replace(SMALL, progress=stop))
    first, *others = sorted(path.parent.glob(".*.partial/*.npz"))
    assert len(others) == 2
    with np.load(first) as block:
        save(photos, json.loads(block["names"].tobytes())["ids"][0], 400)  # replaced
    save(photos, "birch/zebra.png", 300)  # behind the finished blocks
    notes: list[str] = []
    images = run(photos, tiny, path, note=notes.append).images
    assert notes == []
    assert images == len(rows(path)) - (24 if is_update else 0) - 16  # two blocks were kept
    anew = tmp_path / "anew.h5"
    run(photos, tiny, anew)
    ours, fresh = rows(path), rows(anew)
    assert {name: row[1:] for name, row in ours.items()} == {n: r[1:] for n, r in fresh.items()}
    assert verify_cache(path).problems == ()
