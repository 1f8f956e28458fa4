"""`--download` against a stub of torchvision: where files end up, and that failures leave none."""

import contextlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cafe.datasets import download, load_dataset
from cafe.datasets.catalog import KNOWN
from cafe.errors import DatasetError

EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
EUROSAT += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]


Offer = Callable[[str, Any], None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Put a class into the stub of `torchvision.datasets`."""

    def apply(name: str, make: Any) -> None:
        utils = types.SimpleNamespace(_ARCHIVE_EXTRACTORS={".tar": None, ".zip": None})
        module = types.SimpleNamespace(datasets=types.SimpleNamespace(utils=utils, **{name: make}))
        monkeypatch.setattr(download, "import_torchvision", lambda: module)

    return apply


def eurosat(root: str, *, download: bool) -> None:
    assert download
    sys.stdout.write("Downloading ...\n")  # as torchvision does
    for name in EUROSAT:
        folder = Path(root) / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        (folder / f"{name}_1.jpg").write_bytes(b"image")
    (Path(root) / "eurosat" / "EuroSAT.zip").write_bytes(b"archive")


def test_files_end_up_where_the_table_expects_them(
    offer: Offer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer("EuroSAT", eurosat)
    root = tmp_path / "new" / "data"
    dataset = load_dataset("eurosat", data_root=root, download=True)
    assert dataset.root == root / "eurosat" / "2750"
    assert len(dataset.class_names) == 10
    assert sorted(p.name for p in root.iterdir()) == ["eurosat"]
    assert sorted(p.name for p in (root / "eurosat").iterdir()) == ["2750"]  # no archive
    assert capsys.readouterr().out == ""


def test_what_is_there_stays(offer: Offer, tmp_path: Path) -> None:
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat" / "mine.txt").write_text("mine")
    offer("EuroSAT", eurosat)
    load_dataset("eurosat", data_root=tmp_path, download=True)
    assert sorted(p.name for p in (tmp_path / "eurosat").iterdir()) == ["2750", "mine.txt"]


def test_nothing_is_fetched_twice(offer: Offer, tmp_path: Path) -> None:
    offer("EuroSAT", eurosat)
    load_dataset("eurosat", data_root=tmp_path, download=True)
    offer("EuroSAT", None)
    load_dataset("eurosat", data_root=tmp_path, download=True)


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("bad md5")])
def test_failure_leaves_nothing(offer: Offer, tmp_path: Path, error: Exception) -> None:
    def half(root: str, *, download: bool) -> NoReturn:
        (Path(root) / "eurosat" / "2750").mkdir(parents=True)
        raise error

    offer("EuroSAT", half)
    with pytest.raises(DatasetError, match="downloading eurosat failed") as caught:
        load_dataset("eurosat", data_root=tmp_path, download=True)
    assert "\n" not in str(caught.value)
    assert "github.com/phelber/EuroSAT" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(offer: Offer, tmp_path: Path) -> None:
    def stopped(root: str, *, download: bool) -> NoReturn:
        (Path(root) / "eurosat").mkdir()
        raise KeyboardInterrupt

    offer("EuroSAT", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        load_dataset("eurosat", data_root=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [row.name for row in KNOWN if row.torchvision is None])
def test_some_cannot_be_downloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{name} cannot be downloaded by cafe; get it from"):
        load_dataset(name, data_root=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []
