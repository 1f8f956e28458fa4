"""Caches as other files and back, several as one, and the commands that do it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import make_block, make_header
from numpy.typing import NDArray
from safetensors import safe_open
from typer.testing import CliRunner

from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder
from cafe.errors import BusyError, CacheError, CacheMismatchError, InputError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import extract
from cafe.extract.importers import import_features
from cafe.extract.reencode import reencode_sample
from cafe.store import FILE_STATE, FeatureCache, verify_cache, write_cache
from cafe.store.conversion import export_cache
from cafe.store.files import lock_file
from cafe.store.merge import merge_caches
from cafe_cli.main import app


def views(cache: FeatureCache) -> NDArray[Any]:
    found = cache.read("train").views
    assert found is not None
    return found


def test_npz_there_and_back(noise_cache: Path, tmp_path: Path) -> None:
    cache = FeatureCache.open(noise_cache)
    export_cache(cache, tmp_path / "x.npz")
    again = import_features(tmp_path / "x.npz", tmp_path / "again" / "tiny.none.h5")
    assert again.header.class_names == cache.header.class_names
    assert np.array_equal(again.header.text_features, cache.header.text_features)
    for split in cache.counts:
        assert np.array_equal(again.read(split).features, cache.read(split).features)
        assert np.array_equal(again.labels(split), cache.labels(split))
    with np.load(tmp_path / "x.npz") as file:
        assert tuple(file["train_ids"]) == cache.ids("train")
        assert np.array_equal(file["train_views"], views(cache))


def test_safetensors(noise_cache: Path, tmp_path: Path) -> None:
    cache = FeatureCache.open(noise_cache)
    export_cache(cache, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        about = file.metadata()
        assert np.array_equal(file.get_tensor("test_features"), cache.read("test").features)
        assert np.array_equal(file.get_tensor("train_views"), views(cache))
    assert json.loads(about["class_names"]) == list(cache.header.class_names)
    assert json.loads(about["key"]) == cache.header.key


def test_caches_of_another_logit_scale_are_not_merged(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "t.n.h5", tmp_path / "b" / "t.n.h5"]
    for path, scale in zip(paths, (100.0, 5.0), strict=True):
        with_ids = make_block(5, start=int(scale))
        write_cache(path, make_header(logit_scale=scale), {"train": [with_ids]})
    parts = [FeatureCache.open(path) for path in paths]
    with pytest.raises(CacheMismatchError, match=r"logit scale is 100.0, here 5.0"):
        merge_caches(parts, tmp_path / "both" / "t.n.h5")
    assert not (tmp_path / "both").exists()


def test_a_file_that_is_there_is_replaced_or_not(noise_cache: Path, tmp_path: Path) -> None:
    cache, target = FeatureCache.open(noise_cache), tmp_path / "x.npz"
    target.write_text("mine")
    with pytest.raises(InputError, match="is there already; choose another name, or use replace="):
        export_cache(cache, target, replace=False)
    with lock_file(target), pytest.raises(BusyError, match="another process is writing"):
        export_cache(cache, target)
    assert target.read_text() == "mine"
    export_cache(cache, target)
    assert target.read_bytes()[:2] == b"PK"


def test_another_ending(noise_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot export to .*x\.csv'; end its name in \.npz or"):
        export_cache(FeatureCache.open(noise_cache), tmp_path / "x.csv")


def test_an_export_that_cannot_be_written(noise_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot write .*choose another place"):
        export_cache(FeatureCache.open(noise_cache), tmp_path / "file" / "x.npz")


def part(path: Path, start: int, rows: int = 5, **changes: object) -> FeatureCache:
    header = make_header(**{"dataset": path.name, **changes})  # type: ignore[arg-type]
    write_cache(path, header, {"train": [make_block(rows, start=start, views=2)]})
    return FeatureCache.open(path)


def test_merged_rows_follow_each_other(tmp_path: Path) -> None:
    parts = [part(tmp_path / name, start) for name, start in (("a", 0), ("b", 5), ("c", 10))]
    merged = merge_caches(parts, tmp_path / "all" / "tiny.none.h5")
    assert merged.ids("train") == tuple(f"{row}.png" for row in range(15))
    features = np.concatenate([cache.read("train").features for cache in parts])
    assert np.array_equal(merged.read("train").features, features)
    assert merged.views == 2
    assert merged.header.key["merged_sha256"] == [cache.content_sha256 for cache in parts]
    assert verify_cache(merged.path).problems == ()


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "a", "c")])
def test_different_images_of_one_id_are_told_apart(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two folders that both hold `a/1.png`."""
    parts = [
        part(tmp_path / str(start) / name, start, dataset=name, missing=("gone.png",))
        for start, name in zip((0, 2, 40), names, strict=True)
    ]
    notes: list[str] = []
    merged = merge_caches(parts, tmp_path / "all" / "tiny.none.h5", note=notes.append)
    before = names if len(set(names)) == 3 else ("1-a", "2-a", "3-c")
    expected = [
        f"{b}/{i}" for b, cache in zip(before, parts, strict=True) for i in cache.ids("train")
    ]
    assert list(merged.ids("train")) == expected
    assert merged.header.missing == tuple(f"{b}/gone.png" for b in before)
    (note,) = notes
    assert "3 ids are in several caches, such as '2.png'" in note
    assert f"'{before[0]}/2.png'" in note
    assert verify_cache(merged.path).problems == ()


def test_an_image_of_training_is_not_merged_into_the_test_split(tmp_path: Path) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    block = make_block(5)
    near = replace(block, features=block.features * np.float32(1.0001))  # another batch, say
    write_cache(paths[0], make_header(), {"train": [block]})
    write_cache(paths[1], make_header(), {"test": [near]})
    with pytest.raises(InputError, match=r"is the same image in .* \(train\) and in .* \(test\)"):
        merge_caches([FeatureCache.open(path) for path in paths], tmp_path / "all" / "t.n.h5")


def test_an_image_in_training_and_test_under_two_ids_is_noted(tmp_path: Path) -> None:
    """By the content of the files, where caches know it."""
    paths = [tmp_path / name / "t.n.h5" for name in "ab"]
    for number, (path, split) in enumerate(zip(paths, ("train", "test"), strict=True)):
        states = np.zeros(5, FILE_STATE)
        states["sha256"] = np.arange(5 * 32, dtype=np.uint8).reshape(5, 32)
        states["sha256"][0] = 0  # not known
        states["sha256"][1:3] += np.uint8(number)  # of another image
        block = replace(make_block(5, start=20 * number), files=states)
        header = make_header(dataset=path.parent.name, skipped_files=np.zeros(0, FILE_STATE))
        write_cache(path, header, {split: [block]})
    notes: list[str] = []
    parts = [FeatureCache.open(path) for path in paths]
    merge_caches(parts, tmp_path / "both" / "t.n.h5", note=notes.append)
    (note,) = notes
    assert note.startswith("2 images in both training and test by content, such as '3.png' and '23")


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    first, target = part(tmp_path / "a", 0), tmp_path / "all" / "tiny.none.h5"
    with pytest.raises(InputError, match="at least two caches; got 1"):
        merge_caches([first], target)
    with pytest.raises(InputError, match=r"'0\.png' is the same image in .*a' \(train\) and in"):
        merge_caches([first, part(tmp_path / "b", 0)], target)
    with pytest.raises(InputError, match=r"3 ids are in several caches, such as '2\.png'"):
        merge_caches([first, part(tmp_path / "b", 2)], target, equal_ids="refuse")
    for name, change, message in (
        ("c", {"key": {"precision": "bf16"}}, "precision is fp32, here bf16"),
        ("d", {"model": "big"}, "model is tiny, here big"),
        ("e", {"class_names": ("x", "y", "z")}, "class names is"),
    ):
        with pytest.raises(CacheMismatchError, match=message):
            merge_caches([first, part(tmp_path / name, 9, **change)], target)
    assert not target.exists()


@pytest.fixture
def extracted(dataset: Dataset, tiny: Encoder, tmp_path: Path) -> FeatureCache:
    path = tmp_path / "cache" / "shapes" / "tiny.local.h5"
    options = ExtractOptions(batch_size=4)
    extract(dataset, tiny, path, sentences=(("a disc.",), ("a square.",)), options=options)
    return FeatureCache.open(path)


def test_a_sample_encoded_again_is_the_same(
    extracted: FeatureCache, dataset: Dataset, tiny: Encoder
) -> None:
    for count in (1, 10, 1000):
        assert reencode_sample(extracted, dataset, tiny, count) > 0.99999


def test_a_sample_sees_features_of_other_images(
    extracted: FeatureCache, dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    blocks = {split: list(extracted.blocks(split)) for split in extracted.counts}
    wrong = replace(blocks["train"][0], features=blocks["train"][0].features[::-1])
    write_cache(tmp_path / "x.h5", extracted.header, {**blocks, "train": [wrong]})
    cache = FeatureCache.open(tmp_path / "x.h5")
    assert verify_cache(cache.path).problems == ()
    assert reencode_sample(cache, dataset, tiny, 28) < 0.999


def test_a_sample_needs_the_same_data_and_weights(
    extracted: FeatureCache, dataset: Dataset, tiny: Encoder
) -> None:
    with pytest.raises(CacheMismatchError, match="made from another dataset"):
        reencode_sample(extracted, replace(dataset, class_names=("x", "y")), tiny, 3)
    with pytest.raises(CacheMismatchError, match=r"not the encoder of .* other weights"):
        reencode_sample(extracted, dataset, replace(tiny, weights_sha256="0"), 3)
    with pytest.raises(InputError, match="at least 1 image; got 0"):
        reencode_sample(extracted, dataset, tiny, 0)


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cache", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_commands(noise_cache: Path, tmp_path: Path) -> None:
    home = noise_cache.parents[1]
    code, out = run("verify", "noise/tiny.none", "--cache", home)
    assert (code, "sound" in out) == (0, True)
    code, out = run("verify", noise_cache, "--json")
    assert (code, json.loads(out)["problems"]) == (0, [])
    code, out = run("export", noise_cache, tmp_path / "x.npz", "--json")
    assert json.loads(out)["bytes"] == (tmp_path / "x.npz").stat().st_size
    with pytest.raises(InputError, match="is there already; choose another name, or use --replace"):
        run("export", noise_cache, tmp_path / "x.npz")
    part(home / "a" / "t.n.h5", 0), part(home / "b" / "t.n.h5", 50)
    code, out = run("merge", "both/t.n", "a/t.n", "b/t.n", "--cache", home, "--json")
    assert json.loads(out)["images"] == {"train": 10}
    code, out = run("rm", "both/t.n", "--cache", home, "--yes", "--json")
    assert json.loads(out)["removed"] == str(home / "both" / "t.n.h5")
    assert not (home / "both").exists()
    with pytest.raises(CacheError, match="is kept; --yes removes it"):
        run("rm", "a/t.n", "--cache", home)


def test_verify_ends_with_1_where_something_is_wrong(noise_cache: Path) -> None:
    data = bytearray(noise_cache.read_bytes())
    data[-2000] ^= 1
    noise_cache.write_bytes(data)
    code, out = run("verify", noise_cache, "--json")
    assert code == 1
    assert json.loads(out)["problems"]
