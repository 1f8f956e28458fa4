"""What an import says: how classes were ordered, what was left out, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from digits_run import call
from numpy.typing import NDArray
from test_importers import arrays
from test_importers_folders import Set, clip_benchmark, clip_retrieval, target, tip_adapter
from torch.nn.functional import normalize, one_hot

from cafe.errors import CacheFormatError, CafeError, InputError
from cafe.extract.importers import import_features
from cafe.extract.importers.zero_shot_check import (
    ZeroShotCheck,
    check_zero_shot,
    doubts,
)
from cafe.store import FeatureCache

WORDS = ["ash", "birch", "cedar", "elm", "fig", "hazel", "larch", "maple", "oak", "pine", "yew"]


class Twelve(Set):
    """A task of as many classes as numbers need for a wrong order."""

    def __init__(self, classes: int = 12) -> None:
        noise = torch.Generator().manual_seed(0)
        self.text = normalize(torch.randn(classes, 16, generator=noise), dim=-1)
        self.y = torch.arange(classes).repeat(8)[torch.randperm(8 * classes, generator=noise)]
        scatter = 0.1 * torch.randn(len(self.y), 16, generator=noise)
        self.x = normalize(self.text[self.y] + scatter, dim=-1)


class Imported(NamedTuple):
    cache: FeatureCache
    notes: list[str]

    def said(self, part: str) -> list[str]:
        return [line for line in self.notes if part in line]


def bring(source: Path, tmp_path: Path, **options: Any) -> Imported:
    notes: list[str] = []
    return Imported(import_features(source, target(tmp_path), note=notes.append, **options), notes)


def embedded(folder: Path, data: Set, classes: list[str], **columns: list[Any]) -> Path:
    """An output of clip-retrieval whose k-th class is the k-th text."""
    paths = [
        f"/d/{'test' if row % 5 == 0 else 'train'}/{classes[y]}/{row}.jpg"
        for row, y in enumerate(data.y.tolist())
    ]
    return clip_retrieval(folder, data, paths, **columns)


NUMBERED = {
    "from 0": [str(n) for n in range(12)],
    "from 1": [str(n) for n in range(1, 13)],
    "zeros in front": [f"{n:03d}" for n in range(12)],
    "below 0": [str(n) for n in range(-6, 6)],
    "with decimals": [str(n / 2) for n in range(12)],
    "ranges": [f"{10 * n}-{10 * n + 9}" for n in range(12)],
}


class TestOrder:
    @pytest.mark.parametrize("kind", NUMBERED)
    def test_classes_that_are_numbers_are_in_their_order(self, kind: str, tmp_path: Path) -> None:
        data, classes = Twelve(), NUMBERED[kind]
        source = embedded(tmp_path / "out", data, classes)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert made.cache.header.class_names == tuple(classes)
        assert check_zero_shot(made.cache).accuracy > 90
        shown = ", ".join(f"{name} -> row {row}" for row, name in enumerate(classes[:4]))
        assert made.said("in the order") == [
            f"out: texts are taken in the order of the classes: {shown} and 8 more."
        ]

    @pytest.mark.parametrize("kind", [str, int])
    def test_labels_that_are_numbers(self, kind: type, tmp_path: Path) -> None:
        data = Twelve()
        label = [kind(y) for y in data.y.tolist()]
        source = embedded(tmp_path / "out", data, ["x"] * 12, label=label)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert check_zero_shot(made.cache).accuracy > 90
        assert "0 -> row 0, 1 -> row 1, 2 -> row 2, 3 -> row 3" in made.said("in the order")[0]

    def test_names_for_numbered_folders(self, tmp_path: Path) -> None:
        data = Twelve(11)
        source = embedded(tmp_path / "out", data, [str(n) for n in range(11)])
        (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(WORDS).encode())
        text = data.text_file(tmp_path)
        made = bring(source, tmp_path, text=text, classes=tmp_path / "names.txt")
        assert made.cache.header.class_names == tuple(WORDS)
        assert check_zero_shot(made.cache).accuracy > 90
        assert made.said("class names are taken in the order of the classes: 0 -> ash, 1 -> birch")
        (tmp_path / "names.txt").write_text("\n".join(WORDS[:10]))
        with pytest.raises(CacheFormatError, match=r"'\d+' of the metadata is none of the 10"):
            bring(source, tmp_path, text=text, classes=tmp_path / "names.txt")

    def test_names_that_are_looked_up_need_no_order(self, tmp_path: Path) -> None:
        data = Twelve(11)
        source = embedded(tmp_path / "out", data, WORDS)
        (tmp_path / "names.txt").write_text("\n".join(WORDS))
        made = bring(
            source, tmp_path, text=data.text_file(tmp_path), classes=tmp_path / "names.txt"
        )
        assert made.said("in the order") == []

    def test_names_that_count_are_refused_but_where_their_order_is_given(
        self, tmp_path: Path
    ) -> None:
        data, classes = Twelve(), [f"class {n}" for n in range(12)]
        source = embedded(tmp_path / "out", data, classes)
        text = data.text_file(tmp_path)
        with pytest.raises(CacheFormatError, match=r"sorted as text and counted.* with classes="):
            bring(source, tmp_path, text=text)
        (tmp_path / "names.txt").write_text("\n".join(classes))
        made = bring(source, tmp_path, text=text, classes=tmp_path / "names.txt")
        assert check_zero_shot(made.cache).accuracy > 90

    @pytest.mark.parametrize("make", [tip_adapter, clip_benchmark], ids=["tip", "benchmark"])
    def test_names_by_label(self, make: Callable[..., Path], tmp_path: Path) -> None:
        data, more = Set(), [("train", "test")] if make is clip_benchmark else []
        (tmp_path / "names.json").write_text(json.dumps(WORDS[:5]))
        made = bring(
            make(tmp_path / "f", data, *more),
            tmp_path,
            text=data.text_file(tmp_path),
            classes=tmp_path / "names.json",
        )
        assert made.said("class names are taken in the order of the labels: 0 -> ash, 1 -> birch")

    def test_names_in_an_archive(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **arrays())
        assert bring(tmp_path / "x.npz", tmp_path).said("labels: 0 -> cat, 1 -> dog, 2 -> 日本.")


class TestLeftOut:
    def test_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **arrays(train_ids=np.array(["a"] * 6), dev_labels=np.ones(2)))
        made = bring(tmp_path / "x.npz", tmp_path)
        assert made.said("left out") == ["x.npz: left out: 2 arrays: 'train_ids', 'dev_labels'."]

    def test_files(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tip_adapter(tmp_path / "caches", data, 2), data, 8)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert made.said("left out: 2 files: 'keys_2shots.pt', 'values_2shots.pt'.")
        source = clip_benchmark(tmp_path / "f", data, ("train", "dev", "test"))
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert made.said("left out: 2 files: 'features_dev.pt', 'targets_dev.pt'.")

    def test_val_as_test_and_a_split_by_cafe(self, tmp_path: Path) -> None:
        data = Set()
        source = clip_benchmark(tmp_path / "f", data, ("train", "val"))
        text = data.text_file(tmp_path)
        assert bring(source, tmp_path, text=text).said("its 'val' is the test split")
        paths = [f"{'abcde'[y]}/{row}.jpg" for row, y in enumerate(data.y.tolist())]
        source = clip_retrieval(tmp_path / "out", data, paths)
        assert bring(source, tmp_path, text=text).said("cafe's split: 50/20/30 %")

    def test_columns_and_metadata(self, tmp_path: Path) -> None:
        data = Set()
        source = embedded(tmp_path / "out", data, list("abcde"), caption=["x"] * 40)
        whole = (source / "metadata/metadata_2.parquet").read_bytes()
        (source / "metadata/metadata_3.parquet").write_bytes(whole)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert [line.removeprefix("out: left out: ") for line in made.said("left out")] == [
            "columns 'caption' of the metadata.",
            "1 file of metadata without embeddings: 'metadata_3.parquet'.",
        ]

    def test_classes_without_images_and_features_of_zeros(self, tmp_path: Path) -> None:
        features = arrays()["train_features"]
        features[2] = 0
        labels = np.array([0, 1, 0, 1, 0, 1])
        np.savez(tmp_path / "x.npz", **arrays(train_features=features, train_labels=labels))
        made = bring(tmp_path / "x.npz", tmp_path)
        assert made.said("1 of 3 classes has no image in train: '日本'.")
        assert made.said("1 of 6 image features in train is all zeros.")
        assert not made.said("in test")

    def test_equal_texts(self, tmp_path: Path) -> None:
        text = arrays()["text_prompts"]
        text[2] = text[0]
        np.savez(tmp_path / "x.npz", **arrays(text_prompts=text))
        assert bring(tmp_path / "x.npz", tmp_path).said(
            "classes 0, 2 ('cat', '日本') have equal text features"
        )


class TestNormalised:
    def test_all(self, tmp_path: Path) -> None:
        data = Set(torch.float16)
        made = bring(tip_adapter(tmp_path / "f", data), tmp_path, text=data.text_file(tmp_path))
        assert made.said("image features are L2-normalised, not raw")
        assert made.cache.header.source.startswith("unit features of Tip-Adapter")

    def test_none(self, tmp_path: Path) -> None:
        data = Set()
        data.x *= 9
        made = bring(tip_adapter(tmp_path / "f", data), tmp_path, text=data.text_file(tmp_path))
        assert made.said("image features are not L2-normalised: from 9 to 9 long.")
        assert made.cache.header.source.startswith("features of Tip-Adapter")

    def test_some(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "f", data)
        torch.save(3 * data.x, source / "test_f.pt")
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert made.said("L2-normalised in train and val and not in test (from 3 to 3 long)")


def refusal(tmp_path: Path, **changes: Any) -> str:
    np.savez(tmp_path / "x.npz", **arrays(**changes))
    with pytest.raises(CafeError) as caught:
        import_features(tmp_path / "x.npz", target(tmp_path))
    assert not target(tmp_path).exists()
    return str(caught.value)


class TestRefused:
    def test_labels_of_another_form(self, tmp_path: Path) -> None:
        table = np.eye(3)[[0, 1, 2, 0]]
        assert "of one-hot rows save argmax(1)" in refusal(tmp_path, test_labels=table)
        from_one = np.array([1, 2, 3, 1, 2, 3])
        assert "from 1 to 3; count from 0." in refusal(tmp_path, train_labels=from_one)

    def test_texts_that_may_lie_either_way(self, tmp_path: Path) -> None:
        text = np.random.default_rng(0).standard_normal((5, 5))
        changes = {"text_prompts": text, "class_names": np.array(list("abcde"))}
        assert "a row or a column for each class; save it as (5, 1, 5)" in refusal(
            tmp_path, **changes
        )
        np.savez(tmp_path / "x.npz", **arrays(**{**changes, "text_prompts": text[:, None]}))
        header = import_features(tmp_path / "x.npz", target(tmp_path)).header
        assert np.allclose(header.text_features[:, 0], text)

    def test_a_class_without_a_text(self, tmp_path: Path) -> None:
        text = arrays()["text_prompts"]
        text[1] = 0
        assert "text_prompts of class 1 are all zeros" in refusal(tmp_path, text_prompts=text)

    @pytest.mark.parametrize("name", ["", " ", "a\0b", "\ud800"])
    def test_names_that_cannot_be_kept(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "names.json").write_text(json.dumps(["a", "b", name]))
        np.savez(tmp_path / "x.npz", **arrays())
        with pytest.raises(CacheFormatError, match="cannot be a class name"):
            import_features(tmp_path / "x.npz", target(tmp_path), classes=tmp_path / "names.json")

    def test_names_in_bytes_are_text(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **arrays(class_names=np.array([b"a", b"b", b"\xc3\xa9"])))
        header = import_features(tmp_path / "x.npz", target(tmp_path)).header
        assert header.class_names == ("a", "b", "é")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        names = np.array([b"a", b"b", b"\xff"])
        assert "cannot be a class name" in refusal(tmp_path, class_names=names)

    def test_one_hot_rows_of_another_number_of_classes(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "f", data)
        torch.save(one_hot(data.y[:20], 6).half(), source / "values_4shots.pt")
        with pytest.raises(CacheFormatError, match="are for 6 classes and there are 5 class_names"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))


class TestMetadata:
    def refused(self, tmp_path: Path, classes: list[str], match: str, **columns: Any) -> None:
        data = Set()
        source = embedded(tmp_path / "out", data, classes, **columns)
        with pytest.raises(CafeError, match=match):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))

    def test_a_split_that_is_none(self, tmp_path: Path) -> None:
        split = ["train", "dev"] * 20
        self.refused(tmp_path, list("abcde"), "split 'dev' is none of train, val", split=split)

    def test_columns_in_other_letters(self, tmp_path: Path) -> None:
        data = Set()
        columns = {"Label": data.y.tolist(), " SPLIT ": ["Train", "VALID"] * 20}
        source = embedded(tmp_path / "out", data, list("zzzzz"), **columns)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert dict(made.cache.counts) == {"train": 20, "val": 20}
        assert not made.said("left out")

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        columns = {"Label": [0] * 40, "LABEL": [1] * 40}
        self.refused(tmp_path, list("abcde"), "has 2 columns 'label'", **columns)

    def test_classes_that_are_splits(self, tmp_path: Path) -> None:
        names = ["train", "val", "test", "training", "valid"]
        self.refused(tmp_path, names, "the folders of splits; name the column")

    def test_a_class_that_is_called_train(self, tmp_path: Path) -> None:
        data, classes = Set(), ["bus", "car", "plane", "ship", "train"]
        made = bring(
            embedded(tmp_path / "out", data, classes), tmp_path, text=data.text_file(tmp_path)
        )
        assert made.cache.header.class_names == tuple(classes)
        assert made.cache.counts["test"] == 8

    def test_the_nearest_folder_is_the_split(self, tmp_path: Path) -> None:
        data = Set()
        paths = [
            f"/home/test/{'val' if row % 4 else 'train'}/{'abcde'[y]}/{row}.jpg"
            for row, y in enumerate(data.y.tolist())
        ]
        source = clip_retrieval(tmp_path / "out", data, paths)
        made = bring(source, tmp_path, text=data.text_file(tmp_path))
        assert dict(made.cache.counts) == {"train": 10, "val": 30}

    def test_files_that_differ_in_columns(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        data = Set()
        source = embedded(tmp_path / "out", data, list("abcde"))
        file = source / "metadata/metadata_10.parquet"
        table = parquet.read_table(file).append_column("label", pa.array([0] * 20))
        parquet.write_table(table, file)
        with pytest.raises(CacheFormatError, match="1 of 2 files of metadata has a col"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))

    def test_an_image_in_two_splits(self, tmp_path: Path) -> None:
        data = Set()
        split = ["train" if row < 39 else "test" for row in range(40)]
        paths = [f"a/{row % 39}.jpg" for row in range(40)]
        source = clip_retrieval(tmp_path / "out", data, paths, split=split, label=data.y.tolist())
        with pytest.raises(CacheFormatError, match=r"'a/0\.jpg' is in train and in test"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))

    def test_page_checksums_are_compared_where_there_are_any(self, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        data = Set()
        source = embedded(tmp_path / "out", data, list("abcde"))
        file = source / "metadata/metadata_10.parquet"
        options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
        parquet.write_table(parquet.read_table(file), file, **options)
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"/20.jpg", b"/21.jpg"))
        with pytest.raises(CacheFormatError, match=r"no readable parquet file .*CRC"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))


def checks(tmp_path: Path, change: Callable[[Path, Twelve], None]) -> list[ZeroShotCheck]:
    """The checks of an import of three splits of which one thing was changed."""
    data = Twelve()
    source = clip_benchmark(tmp_path / "f", data, ("train", "val", "test"))
    change(source, data)
    return import_checks(source, tmp_path)


def import_checks(source: Path, tmp_path: Path) -> list[ZeroShotCheck]:
    found: list[ZeroShotCheck] = []
    cache = import_features(
        source, target(tmp_path), text=tmp_path / "text.npy", check=found.extend
    )
    assert found == [check_zero_shot(cache, check.split) for check in found]
    return found


def shuffle(split: str, step: int, part: float = 1.0) -> Callable[[Path, Twelve], None]:
    def change(source: Path, data: Twelve) -> None:
        data.text_file(source.parent)
        labels = data.y[::step].numpy().copy()
        draw = np.random.default_rng(0)
        rows = np.flatnonzero(draw.random(len(labels)) < part)
        labels[rows] = draw.permutation(labels[rows])
        torch.save(torch.from_numpy(labels), source / f"targets_{split}.pt")

    return change


def reorder(order: NDArray[np.int64]) -> Callable[[Path, Twelve], None]:
    def change(source: Path, data: Twelve) -> None:
        data.text = data.text[torch.from_numpy(order)]
        data.text_file(source.parent)

    return change


class TestGuard:
    def test_all_is_well(self, tmp_path: Path) -> None:
        found = checks(tmp_path, reorder(np.arange(12)))
        assert [check.split for check in found] == ["test", "val", "train"]
        assert doubts(found) == []

    @pytest.mark.parametrize(("split", "step"), [("train", 1), ("val", 2), ("test", 3)])
    @pytest.mark.parametrize("part", [1.0, 0.7])
    def test_labels_shuffled_in_one_split(
        self, split: str, step: int, part: float, tmp_path: Path
    ) -> None:
        (doubt,) = doubts(checks(tmp_path, shuffle(split, step, part)))
        assert f" {split} images, where guessing gives" in doubt
        assert f"labels of {split} are probably not those of its features" in doubt

    def test_texts_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        # 0, 1, 10, 11, 2, ...: right for two classes, which is more than guessing
        order = np.array(sorted(range(12), key=str))
        (doubt,) = doubts(checks(tmp_path, reorder(order)))
        assert "classes of texts and labels are probably in different orders; the nearest" in doubt
        assert "of class 2 that of 4, of class 3 that of 5" in doubt

    def test_labels_of_one_split_in_another_order(self, tmp_path: Path) -> None:
        def change(source: Path, data: Twelve) -> None:
            data.text_file(source.parent)
            torch.save((data.y + 3) % 12, source / "targets_train.pt")

        (doubt,) = doubts(checks(tmp_path, change))
        assert "on 96 train images" in doubt
        assert "texts and labels of train are probably in different orders" in doubt

    def test_texts_of_another_encoder(self, tmp_path: Path) -> None:
        def change(source: Path, data: Twelve) -> None:
            data.text = torch.randn(data.text.shape, generator=torch.Generator().manual_seed(5))
            data.text_file(source.parent)

        (doubt,) = doubts(checks(tmp_path, change))
        assert "the classes of texts and labels" in doubt
        assert "are probably in different orders" in doubt

    def test_one_class_that_is_most_of_the_images(self, tmp_path: Path) -> None:
        """Answers that are mostly that class are right mostly, and yet those of guessing."""
        data = Twelve()
        y = torch.where(torch.arange(96) % 10 == 0, data.y, 0)
        x = data.text[y] + 0.01
        source = clip_benchmark(tmp_path / "f", data, ("train", "test"))
        torch.save(x, source / "features_train.pt")
        torch.save(
            y[torch.randperm(96, generator=torch.Generator().manual_seed(1))],
            source / "targets_train.pt",
        )
        data.text_file(tmp_path)
        found = import_checks(source, tmp_path)
        assert found[1].accuracy > 75
        assert found[1].at_chance
        assert "labels of train" in doubts(found)[0]

    def test_few_images_prove_nothing(self, tmp_path: Path) -> None:
        data = Set()
        source = clip_benchmark(tmp_path / "f", data, ("train", "test"))
        torch.save(data.x[:2].clone(), source / "features_test.pt")
        torch.save(data.y[:2].clone(), source / "targets_test.pt")
        data.text_file(tmp_path)
        assert doubts(import_checks(source, tmp_path)) == []

    def test_the_command_line_says_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = Twelve()
        source = clip_benchmark(tmp_path / "f", data, ("train", "test"))
        shuffle("train", 1)(source, data)
        words = ["cache", "import", source, "pets/x.y", "--text", tmp_path / "text.npy"]
        where = ["--cache", tmp_path / "home"]
        plain = call(monkeypatch, capsys, *words, *where)
        assert plain.code == 0
        assert "zero-shot 100.0 % on test, " in plain.out
        assert "labels of train are probably not those" in plain.err
        told = call(monkeypatch, capsys, *words, *where, "--replace", "--json")
        every = json.loads(told.out)["splits"]
        assert [every[split]["at_chance"] for split in ("test", "train")] == [False, True]


class TestKey:
    def key(self, tmp_path: Path, source: Path, **options: Any) -> dict[str, Any]:
        return dict(import_features(source, target(tmp_path), **options).header.key)

    def test_it_depends_on_what_the_options_choose(self, tmp_path: Path) -> None:
        data = Set()
        columns = {"cls": data.y.tolist(), "other": ((data.y + 1) % 5).tolist()}
        source = embedded(tmp_path / "out", data, list("abcde"), **columns)
        text = data.text_file(tmp_path)
        (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
        base = self.key(tmp_path, source, text=text, label="cls")
        assert self.key(tmp_path, source, text=text, label="cls") == base
        changes: list[tuple[dict[str, Any], set[str]]] = [
            ({"label": "other"}, {"label", "images_sha256"}),
            ({"logit_scale": 5.0}, {"logit_scale"}),
            ({"classes": tmp_path / "names.txt"}, {"class_names_sha256"}),
        ]
        for change, parts in changes:
            key = self.key(tmp_path, source, **{"text": text, "label": "cls", **change})
            assert {part for part in key if key[part] != base[part]} == parts

    def test_it_depends_on_the_images_and_not_on_how_they_are_read(self, tmp_path: Path) -> None:
        data = Set()
        text = data.text_file(tmp_path)
        paths = [f"train/{'abcde'[y]}/{row}.jpg" for row, y in enumerate(data.y.tolist())]
        one = self.key(tmp_path, clip_retrieval(tmp_path / "one", data, paths), text=text)
        paths[0] = "train/a/first.jpg"
        two = self.key(tmp_path, clip_retrieval(tmp_path / "two", data, paths), text=text)
        assert one["images_sha256"] != two["images_sha256"]


def test_encoding_says_what_is_cut(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.mkdir()
    torch.save(torch.randn(4, 512), source / "features_test.pt")
    torch.save(torch.arange(4) % 2, source / "targets_test.pt")
    long = "a large and old and crooked " * 5
    (tmp_path / "names.txt").write_text(f"{long}A\n{long}B\n")
    notes: list[str] = []
    path = tmp_path / "home" / "numbers" / "nano.glyphs.h5"
    import_features(source, path, classes=tmp_path / "names.txt", encode=True, note=notes.append)
    assert notes[0].startswith("2 of 2 sentences, of 2 classes, are longer than the 24 tokens")
    assert "what tells them apart is cut" in notes[1]
    assert not [line for line in notes if "equal text features" in line]


def test_options_that_are_not_of_a_source_are_refused_as_before(tmp_path: Path) -> None:
    data = Set()
    source = tip_adapter(tmp_path / "caches", data)
    with pytest.raises(InputError, match="label='cls' means nothing"):
        bring(source, tmp_path, text=data.text_file(tmp_path), label="cls")
