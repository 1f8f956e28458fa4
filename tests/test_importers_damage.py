"""One flipped bit in an archive of features: it is refused, or every number is as it was."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cafe.errors import CafeError
from cafe.extract.importers.arrays import read_array, read_npz
from cafe.extract.resume import ResumeFolder
from cafe.store import Block

FLIPS = 300
Arrays = dict[str, NDArray[Any]]
FEATURES = np.random.default_rng(0).standard_normal((48, 8)).astype(np.float16)
LABELS = np.arange(48) % 3


def save_npz(file: Path) -> None:
    np.savez(file, train_features=FEATURES, train_labels=LABELS)


def save_small_npz(file: Path) -> None:
    np.savez_compressed(file, train_features=FEATURES, train_labels=LABELS)


def save_pt(file: Path) -> None:
    torch.save(torch.from_numpy(FEATURES), file)


def read_pt(file: Path) -> Arrays:
    return {"features": read_array(file)}


def read_archive(file: Path) -> Arrays:
    return read_npz(file, ("train_features", "train_labels"))


def save_block(file: Path) -> None:
    ids = [f"{row}.png" for row in range(48)]
    block = Block(ids, LABELS.astype(np.int32), FEATURES, FEATURES[:, None].repeat(2, axis=1))
    ResumeFolder(file.parent).save("train", 0, block, [])


def read_block(file: Path) -> Arrays:
    block, _ = ResumeFolder(file.parent).load("train", 0)
    views = {} if block.views is None else {"views": block.views}
    return {
        "features": block.features,
        "labels": block.labels,
        "ids": np.array(block.ids),
        **views,
    }


def same(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype
        for name, array in expected.items()
    )


FORMATS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Arrays]]] = {
    "npz": ("x.npz", save_npz, read_archive),
    "compressed npz": ("x.npz", save_small_npz, read_archive),
    "pt": ("x.pt", save_pt, read_pt),
    "pth": ("x.pth", save_pt, read_pt),
    "finished block": ("train-000000.npz", save_block, read_block),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_bit_is_not_read(form: str, tmp_path: Path) -> None:
    name, save, read = FORMATS[form]
    file = tmp_path / name
    save(file)
    whole, expected = file.read_bytes(), read(file)
    draw, unseen, refused = np.random.default_rng(0), [], 0
    for number in range(FLIPS):  # one in each part of the file
        place = int((number + draw.random()) * len(whole) / FLIPS)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draw.integers(8))
        file.write_bytes(damaged)
        try:
            found = read(file)
        except CafeError:
            refused += 1
        else:
            unseen += [] if same(found, expected) else [place]
    assert unseen == []
    assert refused > FLIPS // 4


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_ends_early_is_not_read(form: str, tmp_path: Path) -> None:
    name, save, read = FORMATS[form]
    file = tmp_path / name
    save(file)
    whole = file.read_bytes()
    for kept in range(0, len(whole), 1 + len(whole) // 40):
        file.write_bytes(whole[:kept])
        with pytest.raises(CafeError):
            read(file)


def test_an_array_without_a_checksum_has_the_size_that_it_says(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FEATURES)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole.replace(b"(48, 8)", b"(40, 8)"))
    with pytest.raises(CafeError, match=r"holds more than the \(40, 8\) that its header says"):
        read_array(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(whole)
    assert np.array_equal(read_array(tmp_path / "x.npy"), FEATURES)


def test_an_archive_s_part_that_is_no_array(tmp_path: Path) -> None:
    save_npz(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("test_features", b"text")
    with pytest.raises(CafeError, match="its 'test_features' is no array"):
        read_npz(tmp_path / "x.npz", ("train_features", "test_features"))


def test_an_archive_with_two_parts_of_one_name(tmp_path: Path) -> None:
    save_npz(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr("train_labels.npy", b"text")
    with pytest.raises(CafeError, match="two parts of one name"):
        read_npz(tmp_path / "x.npz", ("train_features", "train_labels"))
