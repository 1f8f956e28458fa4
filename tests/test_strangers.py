"""Files from strangers: no code in them is run, and none of them reaches out of its folder."""

from __future__ import annotations

import io
import json
import pickle
import stat
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch
from making import draw_image, make_block, make_header
from PIL import Image

from cafe.compat import import_open_clip, import_torchvision
from cafe.datasets import load_dataset
from cafe.datasets.thumbnails import thumbnails_from_dataset, thumbnails_from_folder
from cafe.datasets.unpack import unpack_tar, unpack_zip
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import LONGEST_NAME, CafeError, DatasetError, WeightsError
from cafe.extract.importers import import_features
from cafe.methods.zero_shot import ZeroShotHead
from cafe.results.saved_head import load_head, save_head
from cafe.store import FeatureCache, write_cache


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class Trick:
    """A pickle reads it; under `weights_only` it is a TypeError, after which open_clip tries again
    without."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), (None, {"a": 1})


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there if code has been run."""
    # what a bare torch.load means under torch before 2.6
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    return tmp_path / "code-was-run"


def load(folder: Path, weights: Path) -> Encoder:
    return load_encoder(str(folder), str(weights), device="cpu", precision="fp32")


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "pickle"])
def test_weights_that_hold_code(tiny_folder: Path, mark: Path, name: str, old: bool) -> None:
    file = mark.with_name(name)
    for content in (
        Evil(mark),
        {"state_dict": Evil(mark)},
        {"logit_scale": torch.tensor(1.0), "x": Evil(mark)},
        [Trick(), Evil(mark)],
    ):
        torch.save(content, file, _use_new_zipfile_serialization=not old)
        with pytest.raises(WeightsError, match="is no checkpoint of tiny"):
            load(tiny_folder, file)
        assert not mark.exists()


def test_weights_that_make_the_reader_fail(tiny_folder: Path, mark: Path) -> None:
    """open_clip answers a TypeError with a second, unsafe try."""
    file = mark.with_name("w.pt")
    code = pickle.dumps(Evil(mark))
    file.write_bytes(code)
    with pytest.raises(WeightsError):
        load(tiny_folder, file)
    for content in (3, None, [1], {"a": 1}, {"state_dict": 3}, {"state_dict": {}}, {}, "text"):
        torch.save(content, file)
        with pytest.raises(WeightsError, match="is no checkpoint of tiny"):
            load(tiny_folder, file)
    np.savez(file.with_suffix(".npz"), np.array([Evil(mark)], dtype=object))
    with pytest.raises(WeightsError):
        load(tiny_folder, file.with_suffix(".npz"))
    np.save(file.with_suffix(".npy"), np.array([Evil(mark)], dtype=object))
    with pytest.raises(WeightsError):
        load(tiny_folder, file.with_suffix(".npy"))
    assert not mark.exists()


def test_a_torchscript_archive_is_not_run(tiny_folder: Path, tmp_path: Path) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        script: Any = torch.jit.script
        script(Module()).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="TorchScript archive, which holds code"):
        load(tiny_folder, tmp_path / "w.pt")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_are_loaded_as_open_clip_does(
    tiny: Encoder, tiny_folder: Path, tmp_path: Path, prefix: str, wrap: Any
) -> None:
    state = {f"{prefix}{name}": value for name, value in tiny._network.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    encoder = load(tiny_folder, tmp_path / "w.pt")
    sentences = ["a disc."]
    assert torch.equal(encoder.encode_text(sentences), tiny.encode_text(sentences))


def test_an_open_clip_that_reads_in_another_way_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setattr(import_open_clip(), "load_checkpoint", lambda *_: None)
    with pytest.raises(WeightsError, match="in a way that cafe does not know"):
        load(tiny_folder, tmp_path / "w.pt")


def test_code_that_comes_with_a_tokenizer_is_not_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's folder may say `trust_remote_code` in its configuration."""
    config = json.loads((tiny_folder / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    text |= {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"trust_remote_code": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").touch()
    asked: list[dict[str, Any]] = []

    class RefusedError(Exception):
        pass

    def tokenizer(*_: object, **options: Any) -> None:
        asked.append(options)
        raise RefusedError("no code")

    monkeypatch.setattr("cafe.encoders.tokenizer.importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr(import_open_clip().factory, "HFTokenizer", tokenizer)
    with pytest.raises(WeightsError, match="no code"):
        load_encoder(str(tmp_path), "none", device="cpu", precision="fp32")
    assert [options["trust_remote_code"] for options in asked] == [False]


def tar(path: Path, *members: tarfile.TarInfo, data: bytes = b"image", mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            content = data if member.isreg() else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def zipped(path: Path, *names: str, data: bytes = b"image") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


CLIMBING = ("/etc/passwd", "../x", "a/../../x", "a/b/../../../x", "..", "C:/x", "a\\..\\..\\x")


@pytest.mark.parametrize("name", CLIMBING)
def test_no_member_of_an_archive_leaves_its_folder(tmp_path: Path, name: str) -> None:
    target = tmp_path / "in" / "target"
    target.mkdir(parents=True)
    with pytest.raises(DatasetError, match="leads out of its folder"):
        unpack_tar(tar(tmp_path / "x.tgz", member("ok.png"), member(name)), target, ".gz")
    with pytest.raises(DatasetError, match="leads out of its folder"):
        unpack_zip(zipped(tmp_path / "x.zip", "ok.png", name), target)
    assert below(tmp_path / "in") == ["target", "target/ok.png"]


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    target = tmp_path / "target"
    target.mkdir()
    members = [
        member("a/1.png"),
        member("away", tarfile.SYMTYPE, str(tmp_path)),
        member("away/2.png"),  # through the link
        member("up", tarfile.SYMTYPE, ".."),
        member("same.png", tarfile.LNKTYPE, "a/1.png"),
        member("pipe", tarfile.FIFOTYPE),
        member("null", tarfile.CHRTYPE),
        member("folder", tarfile.DIRTYPE),
    ]
    unpack_tar(tar(tmp_path / "x.tgz", *members), target, ".gz")
    assert below(target) == ["a", "a/1.png", "away", "away/2.png", "folder", "same.png"]
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert not (tmp_path / "2.png").exists()
    assert (target / "same.png").read_bytes() == b"image"
    for to in (str(tmp_path / "secret"), "../secret"):
        with pytest.raises(DatasetError, match="leads out of its folder"):
            unpack_tar(tar(tmp_path / "y.tgz", member("x", tarfile.LNKTYPE, to)), target, ".gz")
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "secret"))
    unpack_zip(tmp_path / "x.zip", target)
    assert not (target / "link").is_symlink()


def test_archives_that_unpack_to_too_much(tmp_path: Path) -> None:
    zeros = bytes(20_000_000)
    long_name = member("x" * 20_000_000)
    huge = member("sparse.png")
    huge.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
    }
    kinds = [
        tar(tmp_path / "file.tgz", member("x.png"), data=zeros),
        tar(tmp_path / "name.tgz", long_name),
        tar(tmp_path / "sparse.tgz", huge, data=b"1\n0\n512\n".ljust(512, b"\0"), mode="w:gz"),
    ]
    for path in kinds:
        tracemalloc.start()
        with pytest.raises(DatasetError, match="unpacks to more than"):
            unpack_tar(path, tmp_path / "target", ".gz")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
    with pytest.raises(DatasetError, match="unpacks to more than"):
        unpack_zip(zipped(tmp_path / "x.zip", "x.png", data=zeros), tmp_path / "target")
    assert sum(path.stat().st_size for path in (tmp_path / "target").rglob("*")) < 3_000_000


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_download_is_unpacked_by_cafe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """torchvision itself follows every path, and has no checksum of some archives."""
    utils = import_torchvision().datasets.utils
    made = tmp_path / f"archive.{kind}"
    tar(made, member("../../out.png")) if kind == "tgz" else zipped(made, "../../out.png")

    def fetch(root: str, *, download: bool) -> None:
        utils.extract_archive(str(made), root)

    monkeypatch.setattr(import_torchvision().datasets, "EuroSAT", fetch)
    before = dict(utils._ARCHIVE_EXTRACTORS)
    root = tmp_path / "a" / "data"
    with pytest.raises(DatasetError, match=r"downloading eurosat failed .*leads out of its folder"):
        load_dataset("eurosat", data_root=root, download=True)
    assert below(tmp_path / "a") == ["data"]
    assert before == utils._ARCHIVE_EXTRACTORS


def test_a_torchvision_that_unpacks_in_another_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = import_torchvision().datasets
    monkeypatch.delattr(datasets.utils, "_ARCHIVE_EXTRACTORS")
    monkeypatch.setattr(datasets, "EuroSAT", None)
    with pytest.raises(DatasetError, match="in a way that cafe does not know"):
        load_dataset("eurosat", data_root=tmp_path, download=True)


LONG = "x" * (1 << 20)
EDGE = "é" * (LONGEST_NAME // 2)


def photos(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            draw_image(number).save(folder / name / f"{number}.png")
    return folder


def split_file(path: Path, name: str) -> dict[str, Any]:
    rows = [["a/0.png", 0, name], ["b/0.png", 1, "b"]]
    path.write_text(json.dumps({"train": rows, "test": [["a/1.png", 0, name]]}))
    return {"split_file": path}


def csv_manifest(path: Path, name: str) -> dict[str, Any]:
    path.write_text(f"path,label\na/0.png,{name}\na/1.png,{name}\nb/0.png,b\nb/1.png,b\n")
    return {"split_file": path.rename(path.with_suffix(".csv"))}


def jsonl_manifest(path: Path, name: str) -> dict[str, Any]:
    rows = [("a/0.png", name), ("a/1.png", name), ("b/0.png", "b"), ("b/1.png", "b")]
    path.write_text("".join(json.dumps({"path": p, "label": n}) + "\n" for p, n in rows))
    return {"split_file": path.rename(path.with_suffix(".jsonl"))}


def names_given(path: Path, name: str) -> dict[str, Any]:
    return {"class_names": [name, "b"]}


def names_mapped(path: Path, name: str) -> dict[str, Any]:
    return {"class_names": {"a": name}}


@pytest.mark.parametrize(
    "source", [split_file, csv_manifest, jsonl_manifest, names_given, names_mapped]
)
def test_names_of_classes_have_a_bound(tmp_path: Path, source: Any) -> None:
    folder = photos(tmp_path / "photos")
    assert EDGE in load_dataset(str(folder), **source(tmp_path / "x.json", EDGE)).class_names
    for name in (f"{EDGE}é", LONG):
        with pytest.raises(CafeError, match=r"1,000 is the most|not CSV") as caught:
            load_dataset(str(folder), **source(tmp_path / "x.json", name))
        assert len(str(caught.value)) < 1000


def test_names_of_imported_classes_have_a_bound(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "train_features": np.eye(8, dtype=np.float32)[:4],
        "train_labels": np.arange(4) % 2,
        "text_prompts": np.eye(8, dtype=np.float32)[:2],
    }
    for name, fine in ((EDGE, True), (LONG, False)):
        np.savez(tmp_path / "x.npz", class_names=np.array([name, "b"]), **arrays)
        np.savez(tmp_path / "y.npz", **arrays)
        (tmp_path / "names.txt").write_text(f"{name}\nb\n")
        for number, (file, more) in enumerate(
            (("x.npz", {}), ("y.npz", {"classes": tmp_path / "names.txt"}))
        ):
            target = tmp_path / f"{number}{fine}" / "m.t.h5"
            if fine:
                imported = import_features(tmp_path / file, target, **more)
                assert imported.header.class_names == (name, "b")
                continue
            with pytest.raises(CafeError, match="has 1,048,576 bytes; 1,000 is the most"):
                import_features(tmp_path / file, target, **more)
            assert not target.parent.exists()


def test_names_in_a_cache_have_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "m.t.h5"
    write_cache(path, make_header(class_names=(EDGE, "b", "c")), {"train": [make_block(3)]})
    assert FeatureCache.open(path).header.class_names[0] == EDGE
    with pytest.raises(CafeError, match="is too long"):
        write_cache(path, make_header(class_names=(LONG, "b", "c")), {"train": [make_block(3)]})
    with h5py.File(path, "r+") as file:
        digest = file["class_names"].attrs["sha256"]
        del file["class_names"]
        names = np.array([LONG.encode(), b"b", b"c"])
        file.create_dataset("class_names", data=names, chunks=(1,), fletcher32=True)
        file["class_names"].attrs["sha256"] = digest
    with pytest.raises(CafeError, match="class names of 1,048,576 bytes, 1,000 is the most"):
        FeatureCache.open(path)


def test_names_in_a_head_have_a_bound(tmp_path: Path) -> None:
    head = ZeroShotHead(torch.eye(3, 8), torch.tensor([100.0, 0.0]), params={}, method="zero-shot")
    about: dict[str, Any] = {
        "class_names": [LONG, "b", "c"],
        "dataset": "d",
        "encoder": {"model": "m", "pretrained": "t"},
        "cache_key": {},
    }
    save_head(tmp_path / "h.safetensors", head, about)
    with pytest.raises(CafeError, match="class_names") as caught:
        load_head(tmp_path / "h.safetensors")
    assert len(str(caught.value)) < 1000


def test_names_in_a_cache_do_not_lead_out_of_the_folder_of_images(tmp_path: Path) -> None:
    root, secret = tmp_path / "images", tmp_path / "secret.png"
    (root / "a").mkdir(parents=True)
    for path in (secret, root / "a" / "1.png"):
        draw_image(1).save(path)
    (root / "link.png").symlink_to(secret)
    (root / "up").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    (root / "near.png").symlink_to(root / "a" / "1.png")
    away = (
        str(secret),
        "../secret.png",
        "a/../../secret.png",
        "link.png",
        "up/secret.png",
        "circle",
        "a\0b",
        "x" * 100_000,
        "~/secret.png",
        "",
        "a",
    )
    near = ("a/1.png", "./a/1.png", "a/../a/1.png", "near.png")
    found = thumbnails_from_folder(root, dict(enumerate((*away, *near))))
    assert sorted(found) == list(range(len(away), len(away) + len(near)))


def test_a_dataset_called_like_a_folder_opens_none_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "private")
    monkeypatch.chdir(tmp_path)
    ids = {number: f"{name}/{i}.png" for number, (name, i) in enumerate([("a", 0), ("b", 3)])}
    for name in (str(folder), "private", "./private", "../private"):
        assert thumbnails_from_dataset(name, ids) == {}


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 99, b"GIF89a", b"BM" * 50])
def test_a_broken_picture_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert thumbnails_from_folder(tmp_path, {0: "x.png"}) == {}


def test_a_picture_whose_decoder_fails_in_its_own_way_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_image(1).save(tmp_path / "x.png")
    for error in (SyntaxError, ValueError, IndexError, MemoryError, Image.DecompressionBombError):
        monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=error))
        assert thumbnails_from_folder(tmp_path, {0: "x.png"}) == {}
