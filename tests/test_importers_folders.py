"""Feature folders of other people's tools: what they hold arrives, what is wrong is said."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize, one_hot
from typer.testing import CliRunner

from cafe.errors import CacheFormatError, CafeError, InputError
from cafe.extract.importers import import_features
from cafe.extract.importers.classes import read_class_names
from cafe.extract.importers.zero_shot_check import check_zero_shot
from cafe.store import FeatureCache, verify_cache
from cafe_cli.main import app

CLASSES, WIDTH = 5, 8


class Set:
    """A small task on which zero-shot is right: images scattered about the text of their class."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        noise = torch.Generator().manual_seed(0)
        self.text = normalize(torch.randn(CLASSES, WIDTH, generator=noise), dim=-1)
        self.y = torch.arange(CLASSES).repeat(8)
        scatter = 0.1 * torch.randn(len(self.y), WIDTH, generator=noise)
        self.x = normalize(self.text[self.y] + scatter, dim=-1).to(dtype)

    def text_file(self, folder: Path, name: str = "text.npy") -> Path:
        np.save(folder / name, self.text.numpy())
        return folder / name


def tip_adapter(folder: Path, data: Set, shots: int = 4) -> Path:
    """As the authors' `build_cache_model` and `pre_load_features` write it."""
    folder.mkdir(exist_ok=True)
    rows = torch.arange(shots * CLASSES)
    torch.save(data.x[rows].permute(1, 0), folder / f"keys_{shots}shots.pt")
    torch.save(one_hot(data.y[rows], CLASSES).half(), folder / f"values_{shots}shots.pt")
    for split, step in (("val", 2), ("test", 1)):
        torch.save(data.x[::step].clone(), folder / f"{split}_f.pt")
        torch.save(data.y[::step].clone(), folder / f"{split}_l.pt")
    return folder


def clip_benchmark(folder: Path, data: Set, splits: tuple[str, ...]) -> Path:
    """As its linear probe writes it."""
    folder.mkdir(exist_ok=True)
    for step, split in enumerate(splits, start=1):
        torch.save(data.x[::step].clone(), folder / f"features_{split}.pt")
        torch.save(data.y[::step].clone(), folder / f"targets_{split}.pt")
    return folder


def clip_retrieval(folder: Path, data: Set, paths: list[str], **columns: list[Any]) -> Path:
    """As its writer does, in two partitions."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    half = len(paths) // 2
    for number, rows in ((2, slice(0, half)), (10, slice(half, None))):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", data.x[rows].numpy())
        table = {"image_path": paths[rows], **{n: c[rows] for n, c in columns.items()}}
        parquet.write_table(pa.table(table), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def target(tmp_path: Path) -> Path:
    return tmp_path / "home" / "pets" / "ViT-B-32.openai.h5"


def rows(cache: FeatureCache, split: str) -> tuple[NDArray[Any], list[int]]:
    read = cache.read(split)
    return read.features, read.labels.tolist()


class TestTipAdapter:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_a_folder_becomes_a_cache(self, tmp_path: Path, dtype: torch.dtype) -> None:
        data = Set(dtype)
        source = tip_adapter(tmp_path / "caches", data)
        cache = import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        assert dict(cache.counts) == {"train": 20, "val": 20, "test": 40}
        features, labels = rows(cache, "train")
        assert np.array_equal(features, data.x[:20].numpy())
        assert labels == data.y[:20].tolist()
        assert rows(cache, "test")[1] == data.y.tolist()
        assert cache.dtype == str(dtype).removeprefix("torch.")
        assert cache.header.source == (
            "unit features of Tip-Adapter, 4 shots (means of augmented views), imported from caches"
        )
        assert verify_cache(cache.path).problems == ()

    def test_the_most_shots_are_taken_or_those_asked_for(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tip_adapter(tmp_path / "caches", data, 2), data, 8)
        text = data.text_file(tmp_path)
        assert import_features(source, target(tmp_path), text=text).counts["train"] == 40
        assert import_features(source, target(tmp_path), text=text, shots=2).counts["train"] == 10
        with pytest.raises(InputError, match=r"no keys_4shots\.pt; it has shots 2, 8"):
            import_features(source, target(tmp_path), text=text, shots=4)

    def test_text_may_have_a_column_for_each_class(self, tmp_path: Path) -> None:
        data = Set()
        torch.save(data.text.T.clone(), tmp_path / "clip_weights.pt")
        source = tip_adapter(tmp_path / "caches", data)
        cache = import_features(source, target(tmp_path), text=tmp_path / "clip_weights.pt")
        assert np.array_equal(cache.header.text_features[:, 0], data.text.numpy())
        assert cache.header.class_names[1] == "class 1"

    def test_what_means_nothing_here_is_refused(self, tmp_path: Path) -> None:
        data = Set()
        source, text = tip_adapter(tmp_path / "caches", data), data.text_file(tmp_path)
        with pytest.raises(InputError, match=r"label='cls' means nothing for .*clip-retrieval"):
            import_features(source, target(tmp_path), text=text, label="cls")
        source = clip_benchmark(tmp_path / "f", data, ("test",))
        with pytest.raises(InputError, match=r"shots=4 means nothing for .*Tip-Adapter"):
            import_features(source, target(tmp_path), text=text, shots=4)

    def test_soft_values_are_refused(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "caches", data)
        torch.save(torch.full((20, CLASSES), 0.2), source / "values_4shots.pt")
        with pytest.raises(CacheFormatError, match=r"every row of values_4shots\.pt must be one 1"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        assert not target(tmp_path).exists()

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "caches", data)
        (source / "test_l.pt").unlink()
        with pytest.raises(InputError, match=r"no file '.*test_l.pt'"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))


class TestClipBenchmark:
    def test_three_splits(self, tmp_path: Path) -> None:
        data = Set()
        source = clip_benchmark(tmp_path / "f", data, ("train", "val", "test"))
        cache = import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        assert dict(cache.counts) == {"train": 40, "val": 20, "test": 14}
        assert np.array_equal(rows(cache, "val")[0], data.x[::2].numpy())

    def test_val_of_an_old_version_is_the_test_split(self, tmp_path: Path) -> None:
        data = Set()
        source = clip_benchmark(tmp_path / "f", data, ("train", "val"))
        cache = import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        assert dict(cache.counts) == {"train": 40, "test": 20}
        assert "its 'val' is the test split" in cache.header.source


class TestClipRetrieval:
    def test_classes_are_folders_and_splits_are_dealt(self, tmp_path: Path) -> None:
        data = Set()
        paths = [f"/data/pets/{'abcde'[y]}/{row}.jpg" for row, y in enumerate(data.y.tolist())]
        source = clip_retrieval(tmp_path / "out", data, paths)
        cache = import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        assert cache.header.class_names == ("a", "b", "c", "d", "e")
        assert dict(cache.counts) == {"train": 19, "val": 9, "test": 12}
        for split in cache.counts:
            for name, label, feature in zip(
                cache.ids(split), *rows(cache, split)[::-1], strict=True
            ):
                assert name.split("/")[-2] == "abcde"[label]
                assert np.array_equal(feature, data.x[paths.index(name)].numpy())

    def test_columns_say_class_and_split(self, tmp_path: Path) -> None:
        data = Set()
        paths = [f"{row}.jpg" for row in range(40)]
        split = ["training" if row % 4 else "test" for row in range(40)]
        source = clip_retrieval(tmp_path / "out", data, paths, cls=data.y.tolist(), split=split)
        text = data.text_file(tmp_path)
        cache = import_features(source, target(tmp_path), text=text, label="cls")
        assert dict(cache.counts) == {"train": 30, "test": 10}
        assert rows(cache, "test")[1] == data.y[::4].tolist()
        with pytest.raises(InputError, match="no column 'kind'; it has image_path, cls, split"):
            import_features(source, target(tmp_path), text=text, label="kind")

    def test_names_are_looked_up_in_those_given(self, tmp_path: Path) -> None:
        data = Set()
        paths = [f"x/test/{'edcba'[y]}/{row}.jpg" for row, y in enumerate(data.y.tolist())]
        source, text = clip_retrieval(tmp_path / "out", data, paths), data.text_file(tmp_path)
        (tmp_path / "names.txt").write_text("e\nd\nc\nb\na\n")
        names = tmp_path / "names.txt"
        cache = import_features(source, target(tmp_path), text=text, classes=names)
        assert check_zero_shot(cache).accuracy > 90
        names.write_text("e\nd\nc\nb\nz\n")
        with pytest.raises(CacheFormatError, match="class 'a' of the metadata is none of the 5"):
            import_features(source, target(tmp_path), text=text, classes=names)

    def test_an_image_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        data = Set()
        paths = [f"train/{'abcde'[y]}/{row % 39}.jpg" for row, y in enumerate(data.y.tolist())]
        paths[39] = paths[0]
        source = clip_retrieval(tmp_path / "out", data, paths)
        with pytest.raises(CacheFormatError, match=r"hold 'train/a/0\.jpg' twice"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))

    def test_metadata_of_another_length_is_refused(self, tmp_path: Path) -> None:
        data = Set()
        paths = [f"a/{row}.jpg" for row in range(40)]
        source = clip_retrieval(tmp_path / "out", data, paths)
        np.save(source / "img_emb" / "img_emb_10.npy", data.x.numpy())
        with pytest.raises(CacheFormatError, match=r"a row for each of the 40 .*; found 20 rows"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        (source / "metadata" / "metadata_10.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(CacheFormatError, match="is no readable parquet file"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil-was-here"),)


class TestHostile:
    def refused(self, tmp_path: Path, match: str) -> None:
        data = Set()
        with pytest.raises(CafeError, match=match):
            import_features(
                tmp_path / "caches", target(tmp_path), text=data.text_file(tmp_path, "t.npy")
            )
        assert not list(tmp_path.glob("home/**/*.h5"))

    def test_no_code_is_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        source = tip_adapter(tmp_path / "caches", Set())
        for content in (pickle.dumps(Evil()), None):
            if content is None:
                torch.save(Evil(), source / "test_f.pt")
            else:
                (source / "test_f.pt").write_bytes(content)
            self.refused(tmp_path, "is no file of one array")
        assert not (tmp_path / "evil-was-here").exists()

    def test_other_things_than_a_tensor(self, tmp_path: Path) -> None:
        source = tip_adapter(tmp_path / "caches", Set())
        for thing in ({"a": torch.ones(2)}, [1, 2], torch.ones(3, 8).to_sparse()):
            torch.save(thing, source / "test_f.pt")
            self.refused(tmp_path, "is no file of one array")

    def test_damage(self, tmp_path: Path) -> None:
        source = tip_adapter(tmp_path / "caches", Set())
        whole = (source / "test_f.pt").read_bytes()
        for content in (b"", b"PK", whole[: len(whole) // 2], b"\x80\x02" + whole):
            (source / "test_f.pt").write_bytes(content)
            self.refused(tmp_path, "is no file of one array")

    def test_a_tensor_that_unfolds(self, tmp_path: Path) -> None:
        source = tip_adapter(tmp_path / "caches", Set())
        torch.save(torch.ones(1, 8).expand(10**9, 8), source / "test_f.pt")
        self.refused(tmp_path, "unfolds to 8,000,000,000 numbers")

    def test_a_zip_bomb(self, tmp_path: Path) -> None:
        source = tip_adapter(tmp_path / "caches", Set())
        with zipfile.ZipFile(source / "test_f.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/0", bytes(10**7))
        self.refused(tmp_path, "unpacks to")

    def test_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        source = tip_adapter(tmp_path / "caches", Set())
        torch.save(torch.full((40, WIDTH), float("nan")), source / "test_f.pt")
        self.refused(tmp_path, "test_f.pt hold values that are not finite")

    def test_an_unknown_folder(self, tmp_path: Path) -> None:
        (tmp_path / "caches").mkdir()
        self.refused(tmp_path, "no importer reads .*; there is one for each of: an .npz file")
        with pytest.raises(InputError, match="no file or folder"):
            import_features(tmp_path / "nowhere", target(tmp_path))


class TestText:
    def test_missing_text_is_said(self, tmp_path: Path) -> None:
        source, notes = tip_adapter(tmp_path / "caches", Set()), list[str]()
        cache = import_features(source, target(tmp_path), note=notes.append)
        assert not cache.header.has_text
        assert len(cache.header.class_names) == CLASSES
        assert any("no text features of the classes, and none are given" in n for n in notes)

    def test_text_of_another_width(self, tmp_path: Path) -> None:
        np.save(tmp_path / "t.npy", np.ones((CLASSES, 3), np.float32))
        source = tip_adapter(tmp_path / "caches", Set())
        with pytest.raises(CacheFormatError, match="give those of the same encoder"):
            import_features(source, target(tmp_path), text=tmp_path / "t.npy")

    def test_too_few_texts(self, tmp_path: Path) -> None:
        np.save(tmp_path / "t.npy", np.ones((CLASSES - 1, WIDTH), np.float32))
        source = tip_adapter(tmp_path / "caches", Set())
        with pytest.raises(CacheFormatError, match="must be integers from 0 to 3"):
            import_features(source, target(tmp_path), text=tmp_path / "t.npy")

    def test_class_names(self, tmp_path: Path) -> None:
        file = tmp_path / "names.json"
        file.write_text(json.dumps(["a", "b"]))
        assert read_class_names(file) == ("a", "b")
        for bad in ("{}", "[1]", "[]", "nonsense"):
            file.write_text(bad)
            with pytest.raises(InputError, match="is no list of class names"):
                read_class_names(file)
        data = Set()
        file.write_text(json.dumps(["a", "b"]))
        source = tip_adapter(tmp_path / "caches", data)
        with pytest.raises(CacheFormatError, match="has 5 classes and there are 2 class names"):
            import_features(source, target(tmp_path), text=data.text_file(tmp_path), classes=file)


class TestChance:
    def test_a_right_order_is_above_it(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "caches", data)
        cache = import_features(source, target(tmp_path), text=data.text_file(tmp_path))
        found = check_zero_shot(cache)
        assert (found.split, found.images, found.chance) == ("test", 40, 20.0)
        assert found.accuracy > 90
        assert not found.at_chance

    def test_another_order_is_said_on_the_command_line(self, tmp_path: Path) -> None:
        data = Set()
        source = tip_adapter(tmp_path / "caches", data)
        data.text = data.text.roll(2, 0)
        text = str(data.text_file(tmp_path))
        where = ["--text", text, "--cache", str(tmp_path / "home")]
        ran = CliRunner().invoke(app, ["cache", "import", str(source), "pets/x.y", *where])
        assert ran.exit_code == 0
        assert "guessing gives 20.0 %: the classes of texts and labels are probably" in ran.stderr
        again = CliRunner().invoke(
            app, ["cache", "import", str(source), "pets/x.y", *where, "--json", "--replace"]
        )
        assert json.loads(again.stdout)["zero_shot"]["at_chance"] is True


def test_text_can_be_encoded(tmp_path: Path) -> None:
    names = [str(digit) for digit in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    source = tmp_path / "f"
    source.mkdir()
    torch.save(torch.randn(10, 512), source / "features_test.pt")
    torch.save(torch.arange(10), source / "targets_test.pt")
    base = ["cache", "import", str(source), "numbers/nano.glyphs", "--cache", str(tmp_path)]
    ran = CliRunner().invoke(app, [*base, "--encode", "--classes", str(tmp_path / "names.txt")])
    assert ran.exit_code == 0, ran.output
    header = FeatureCache.open(tmp_path / "numbers" / "nano.glyphs.h5").header
    assert header.sentences[3] == ("a photo of a 3.",)
    assert header.class_names == tuple(names)
    refused = CliRunner().invoke(app, [*base, "--replace", "--encode"])
    assert isinstance(refused.exception, InputError)
    refused = CliRunner().invoke(app, [*base, "--replace", "--template", "a {}"])
    assert "add encode=True" in str(refused.exception)
