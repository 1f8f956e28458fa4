"""Extraction: once, complete, resumable, and refused where it would be something else."""

import copy
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import draw_image
from PIL import Image

import cafe.extract.blocks as blocks_module
from cafe.datasets.dataset import Dataset
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import (
    BusyError,
    CacheError,
    CacheFormatError,
    CacheMismatchError,
    CafeError,
    DatasetError,
    InputError,
)
from cafe.extract.blocks import ExtractOptions, plan_blocks
from cafe.extract.extract import Extraction, cache_key, extract
from cafe.extract.extractor import Extractor
from cafe.extract.resume import open_resume_folder
from cafe.store import FeatureCache, verify_cache

SENTENCES = (("a disc.", "one disc."), ("a square.",))
SMALL = ExtractOptions(batch_size=2, workers=2)  # blocks of 16 images: the training split has two


def run(dataset: Dataset, encoder: Encoder, path: Path, **changes: Any) -> Extraction:
    return extract(dataset, encoder, path, **{"sentences": SENTENCES, "options": SMALL, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shapes" / "tiny.local.h5"


def left_over(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []


def test_features_are_the_encoders(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    done = run(dataset, tiny, path)
    assert (done.images, done.skipped, done.was_there) == (28, 0, False)
    cache = FeatureCache.open(path)
    assert dict(cache.counts) == {"train": 20, "val": 4, "test": 4}
    assert cache.ids("train") == tuple(item.id for item in dataset.splits["train"])
    read = cache.read("train")
    assert read.labels.tolist() == [0, 1] * 10
    images = [draw_image(row) for row in range(20)]
    pixels = np.stack([tiny.preprocess.pixels(image) for image in images])
    expected = tiny.encode_pixels(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(read.features, expected, rtol=1e-4, atol=1e-5)
    assert verify_cache(path).problems == ()
    assert left_over(path) == ["tiny.local.h5"]


def test_every_prompt_is_kept_and_none_is_made_up(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    run(dataset, tiny, path)
    header = FeatureCache.open(path).header
    assert header.sentences == (("a disc.", "one disc."), ("a square.", ""))
    expected = tiny.encode_text(["a disc.", "one disc.", "a square."]).numpy()
    np.testing.assert_array_equal(header.text_features[[0, 0, 1], [0, 1, 0]], expected)
    assert not header.text_features[1, 1].any()
    assert header.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert {"torch", "open_clip_torch", "pillow"} <= header.versions.keys()


def test_again_does_nothing(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    run(dataset, tiny, path)
    before = path.read_bytes()
    done = run(dataset, tiny, path)
    assert (done.was_there, done.images) == (True, 0)
    assert path.read_bytes() == before


def test_again_sweeps_up_what_a_kill_at_the_very_end_left(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    run(dataset, tiny, path)
    with open_resume_folder(path, {}, 2):
        pass
    assert len(left_over(path)) == 2
    assert run(dataset, tiny, path).was_there
    assert left_over(path) == ["tiny.local.h5"]


def one_less(dataset: Dataset) -> Dataset:
    return replace(dataset, splits={**dataset.splits, "val": dataset.splits["val"][1:]})


DATASETS: dict[str, tuple[Callable[[Dataset], Dataset], str]] = {
    "the dataset's name": (
        lambda d: replace(d, name="forms"),
        "dataset is shapes, asked for forms",
    ),
    "the templates": (lambda d: d.with_templates(("the {}.",)), r'templates is \["a \{\}\."\]'),
}
WORDS: dict[str, tuple[Any, str]] = {
    "a sentence": (
        (("a disc.", "two discs."), ("a square.",)),
        "1 of 2 classes have other prompts: 'a disc.', 'one disc.' for 'disc', asked for 'a disc.'",
    ),
    "a prompt more": ((*SENTENCES[:1], ("a square.", "x")), "for 'square', asked for .*, 'x'"),
    "the same prompts, in other classes": (
        (("a disc.",), ("one disc.", "a square.")),
        "2 of 2 classes have other prompts",
    ),
}
ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    "the precision": ({"precision": "bf16"}, "precision is fp32, asked for bf16"),
    "the weights": (
        {"weights_sha256": "f" * 64},
        "the encoder has other weights",
    ),
    "the architecture": ({"architecture_sha256": "f" * 64}, "the encoder has another architecture"),
    "the model's name": ({"model": "big"}, "model is tiny, asked for big"),
    "the weights' name": ({"pretrained": "x"}, "pretrained is local, asked for x"),
    "the tokenizer": (
        {"_tokenizer": lambda s: torch.zeros(len(s), 16).int()},
        "tokenizer reads the",
    ),
}


def refused(path: Path, message: str, dataset: Dataset, encoder: Encoder, **changes: Any) -> None:
    before = path.read_bytes()
    with pytest.raises(CacheMismatchError, match=message) as caught:
        run(dataset, encoder, path, **changes)
    assert "was made differently: " in str(caught.value)
    assert "rebuild=True" in str(caught.value)
    assert "sha256" not in str(caught.value)
    assert path.read_bytes() == before


def test_whatever_determines_a_feature_is_in_the_key(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    """Each part is changed in turn, and the refusal names it."""
    run(dataset, tiny, path)
    for change, message in DATASETS.values():
        refused(path, message, change(dataset), tiny)
    for sentences, message in WORDS.values():
        refused(path, message, dataset, tiny, sentences=sentences)
    for parts, message in ENCODERS.values():
        refused(path, message, dataset, replace(tiny, **parts))
    for augmentation in (Augmentation(2), Augmentation(2, seed=1)):
        options = replace(SMALL, augmentation=augmentation)
        refused(path, "augmentation is null, asked for", dataset, tiny, options=options)


@pytest.mark.parametrize("part", ["size", "mean", "std", "interpolation", "resize_mode"])
def test_the_preprocess_is_in_the_key(dataset: Dataset, tiny: Encoder, part: str) -> None:
    preprocess = copy.copy(tiny.preprocess)
    preprocess.config = {**preprocess.config, part: "other"}
    other = replace(tiny, preprocess=preprocess)
    keys = [cache_key(dataset, encoder, SENTENCES, Augmentation()) for encoder in (tiny, other)]
    assert keys[0] != keys[1]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"preprocess"}


def test_the_key_does_not_hold_how_fast_it_went(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    run(dataset, tiny, path)
    options = ExtractOptions(batch_size=7, workers=1, on_error="fail")
    assert run(dataset, tiny, path, options=options).was_there


def test_rebuild_replaces(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    run(dataset, tiny, path)
    fewer = one_less(dataset)
    assert run(fewer, tiny, path, rebuild=True).images == 27
    assert FeatureCache.open(path).counts["val"] == 3
    again = run(fewer, tiny, path, rebuild=True)
    assert (again.was_there, again.images) == (False, 27)  # whatever is there


def test_a_file_that_is_no_cache_is_replaced_only_on_request(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("notes")
    with pytest.raises(CacheFormatError, match="not a readable cafe cache"):
        run(dataset, tiny, path)
    assert path.read_text() == "notes"
    run(dataset, tiny, path, rebuild=True)
    assert verify_cache(path).problems == ()


def breaking(after: int) -> ExtractOptions:
    def progress(_split: str, done: int, _total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    return replace(SMALL, progress=progress)


@pytest.mark.parametrize("after", [2, 18, 24])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    dataset: Dataset, tiny: Encoder, path: Path, after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tiny, path, options=breaking(after))
    assert not path.exists()
    done = run(dataset, tiny, path)
    # whole blocks are kept: 16 and 4 of the training split, 4 of the validation split
    kept = {2: 0, 18: 16, 24: 20}[after]
    assert done.images == 28 - kept
    assert left_over(path) == ["tiny.local.h5"]
    whole = path.with_name("whole.h5")
    run(dataset, tiny, whole)
    assert FeatureCache.open(path).content_sha256 == FeatureCache.open(whole).content_sha256


def test_work_in_other_batches_is_not_taken_over(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tiny, path, options=breaking(28))
    assert run(dataset, tiny, path, options=ExtractOptions(batch_size=3)).images == 28


def test_other_prompts_cost_no_finished_image(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tiny, path, options=breaking(28))
    assert run(dataset, tiny, path, sentences=WORDS["a sentence"][0]).images == 4


def test_finished_work_is_not_removed_in_silence(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tiny, path, options=breaking(28))
    notes: list[str] = []
    run(dataset, tiny, path, options=ExtractOptions(batch_size=3), note=notes.append)
    (note,) = notes
    assert "3 finished blocks" in note
    assert "batch" in note


def test_auto_goes_on_in_the_precision_that_is_there(
    dataset: Dataset, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    def extractor(precision: str) -> Extractor:
        return Extractor(str(tiny_folder), device="cpu", precision=precision, batch_size=2)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    with monkeypatch.context() as patch:
        patch.setattr("cafe.extract.extract.write_cache", kill)
        with pytest.raises(KeyboardInterrupt):
            extractor("bf16").extract(dataset, cache=tmp_path)
    monkeypatch.setattr("cafe.devices.bf16_speedup", lambda: 0.1)  # says fp32
    again = extractor("auto")
    assert again.extract(dataset, cache=tmp_path).header.key["precision"] == "bf16"
    assert again.extraction_.images == 0  # every block was finished
    assert extractor("auto").extract(dataset, cache=tmp_path).header.key["precision"] == "bf16"
    rebuilt = extractor("auto").extract(dataset, cache=tmp_path, rebuild=True)
    assert rebuilt.header.key["precision"] == "fp32"


def test_damaged_work_is_done_again(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tiny, path, options=breaking(28))
    block = next(path.parent.glob(".*.partial/train-000000.npz"))
    data = bytearray(block.read_bytes())
    data[data.find(b"features.npy") + 200] ^= 1
    block.write_bytes(data)
    assert run(dataset, tiny, path).images == 16 + 4


def test_two_at_once(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    key = cache_key(dataset, tiny, SENTENCES, Augmentation())
    with open_resume_folder(path, key, 2):
        start = time.perf_counter()
        with pytest.raises(BusyError, match=r"another process is writing '.*local\.h5'; wait"):
            run(dataset, tiny, path)
        assert time.perf_counter() - start < 5
    assert run(dataset, tiny, path).images == 28


def break_images(dataset: Dataset, *ids: str) -> None:
    assert dataset.root is not None
    for name in ids:
        (dataset.root / name).write_bytes(b"no image")


def test_broken_images_are_skipped_and_recorded(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    break_images(dataset, "train/3.png", "test/0.png", "test/1.png")
    done = run(dataset, tiny, path)
    assert (done.images, done.skipped) == (25, 3)
    cache = FeatureCache.open(path)
    assert [row[:2] for row in cache.header.skipped] == [
        ("train", "train/3.png"),
        ("test", "test/0.png"),
        ("test", "test/1.png"),
    ]
    assert all("cannot identify" in reason for _, _, reason in cache.header.skipped)
    assert "train/3.png" not in cache.ids("train")
    assert cache.read("train").labels.tolist() == [0, 1, 0, *[0, 1] * 8]
    assert dict(cache.counts) == {"train": 19, "val": 4, "test": 2}


def test_a_whole_block_of_broken_images(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    break_images(dataset, *(f"train/{row}.png" for row in range(16)))
    run(dataset, tiny, path, options=replace(SMALL, augmentation=Augmentation(3)))
    cache = FeatureCache.open(path)
    assert cache.ids("train") == tuple(f"train/{row}.png" for row in range(16, 20))
    assert cache.views == 3


def test_strict_stops_at_a_broken_image(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    break_images(dataset, "train/18.png")
    with pytest.raises(DatasetError, match=r"'train/18\.png' .*cannot be read"):
        run(dataset, tiny, path, options=replace(SMALL, on_error="fail"))
    assert not path.exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_images_of_a_split_broken(
    dataset: Dataset, tiny: Encoder, path: Path, split: str
) -> None:
    ids = [item.id for item in dataset.splits[split]]
    break_images(dataset, *ids)
    message = (
        rf"none of the {len(ids)} images of split '{split}' of 'shapes' can be read \({split}/0"
    )
    with pytest.raises(DatasetError, match=message):
        run(dataset, tiny, path)
    assert left_over(path) == []


def test_a_vanished_image_stops_the_run_and_keeps_the_work(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    assert dataset.root is not None
    (dataset.root / "test/2.png").rename(dataset.root / "away.png")
    with pytest.raises(DatasetError, match=r"'test/2\.png' .*is gone; bring it back"):
        run(dataset, tiny, path)
    assert not path.exists()
    (dataset.root / "away.png").rename(dataset.root / "test/2.png")
    assert run(dataset, tiny, path).images == 4


def test_features_that_are_not_finite(
    dataset: Dataset, tiny: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features = torch.ones(len(pixels), tiny.width)
        features[1] = torch.inf
        return features

    broken = replace(tiny)
    monkeypatch.setattr(Encoder, "encode_pixels", lambda _, pixels: encode(pixels))
    with pytest.raises(CafeError, match=r"'train/1\.png' is not finite in fp32; use precision="):
        run(dataset, broken, path)
    assert not path.exists()


def test_half_precision_is_stored_in_half(
    dataset: Dataset, tiny_folder: Path, tiny: Encoder, path: Path
) -> None:
    half = load_encoder(str(tiny_folder), device="cpu", precision="bf16")
    run(dataset, half, path)
    run(dataset, tiny, path.with_name("full.h5"))
    caches = [FeatureCache.open(p) for p in (path, path.with_name("full.h5"))]
    assert [cache.dtype for cache in caches] == ["float16", "float32"]
    a, b = (torch.tensor(cache.read("train").features).float() for cache in caches)
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999


def test_views_of_the_training_split(dataset: Dataset, tiny: Encoder, path: Path) -> None:
    options = replace(SMALL, batch_size=5, augmentation=Augmentation(3, seed=4))
    run(dataset, tiny, path, options=options)
    cache = FeatureCache.open(path)
    assert cache.views == 3
    read = cache.read("train")
    assert read.views is not None
    assert read.views.shape == (20, 3, 16)
    assert np.array_equal(read.views[:, 0], read.features)
    assert not np.allclose(read.views[:, 1], read.features)
    assert cache.read("test").views is None
    assert cache.header.key["augmentation"]["seed"] == 4


def test_a_core_gets_as_many_images_as_its_cache_holds_tokens(
    dataset: Dataset, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny.tokens is not None
    monkeypatch.setattr(blocks_module, "_BATCH_TOKENS", 3 * tiny.tokens)
    assert plan_blocks(dataset, tiny, ExtractOptions())[0].batch_size == 3


def test_views_of_other_splits(tmp_path: Path) -> None:
    extractor = Extractor("nano", device="cpu", precision="fp32")
    folder = tmp_path / "photos"
    for number in range(24):
        below = folder / ("test" if number % 2 else "train") / f"class{number % 4 // 2}"
        below.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(below / f"{number}.png")
    kept = tmp_path / "cache"
    cache = extractor.extract(folder, views=3, view_splits=["test", "train"], cache=kept)
    test = cache.read("test")
    assert test.views is not None
    assert test.views.shape == (12, 3, 512)
    assert np.array_equal(test.views[:, 0], test.features)
    assert cache.read("train").views is not None
    assert cache.header.key["augmentation"]["splits"] == ["train", "test"]
    again = extractor.extract(folder, views=3, view_splits=["train", "test"], cache=kept)
    assert extractor.extraction_.was_there
    assert again.content_sha256 == cache.content_sha256
    with pytest.raises(CacheMismatchError, match="splits"):  # as for any other augmentation
        extractor.extract(folder, views=3, cache=kept)
    with pytest.raises(InputError, match="must be among train, val, test"):
        extractor.extract(folder, views=3, view_splits=["tests"], cache=kept)
    with pytest.raises(InputError, match="view_splits= needs views= above 1"):
        extractor.extract(folder, view_splits=["test"], cache=kept)


def test_views_share_the_batch(tiny: Encoder, dataset: Dataset) -> None:
    plain = plan_blocks(dataset, tiny, ExtractOptions())
    views = plan_blocks(dataset, tiny, ExtractOptions(augmentation=Augmentation(4)))
    assert [block.batch_size for block in views] == [
        plain[0].batch_size // 4,
        plain[1].batch_size,
        plain[2].batch_size,
    ]


def test_a_cache_folder_that_cannot_be_written(
    dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot write to the cache folder .* cache="):
        run(dataset, tiny, tmp_path / "file" / "shapes" / "tiny.local.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"workers": -1}, "workers must be at least 1; got -1"),
        ({"augmentation": Augmentation(0)}, "views must be at least 1; got 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExtractOptions(**options)


def test_progress_counts_every_image_of_every_split(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []
    run(dataset, tiny, path, options=replace(SMALL, progress=lambda *call: calls.append(call)))
    assert calls[0] == ("train", 2, 28)
    assert calls[-1] == ("test", 28, 28)
    assert {total for _, _, total in calls} == {28}


def test_what_a_kill_at_the_very_end_leaves_is_removed(
    dataset: Dataset, tiny: Encoder, path: Path
) -> None:
    run(dataset, tiny, path)
    (path.parent / ".cafe-0123456789abcdef.writing").mkdir()
    path.with_name(f".{path.name}.lock").touch()
    path.with_name(f".{path.name}.partial").mkdir()
    assert run(dataset, tiny, path).was_there
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("other", ["same", "another"])
def test_a_cache_that_appears_before_the_lock_is_kept(
    dataset: Dataset, tiny: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    made = path.with_name("made.h5")
    key = SENTENCES if other == "same" else (("a round.",), ("a square.",))
    run(dataset, tiny, made, sentences=key)

    def plan(*arguments: Any) -> Any:
        shutil.copy(made, path)  # by an import, while the blocks are planned
        return plan_blocks(*arguments)

    monkeypatch.setattr("cafe.extract.extract.plan_blocks", plan)
    if other == "same":
        assert run(dataset, tiny, path).was_there
    else:
        with pytest.raises(CacheMismatchError, match="was made differently"):
            run(dataset, tiny, path)
    assert path.read_bytes() == made.read_bytes()
    assert not list(path.parent.glob(".*.lock"))
    assert not list(path.parent.glob(".*/*.npz"))
