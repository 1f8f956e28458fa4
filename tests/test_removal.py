"""What `rm` and `prune` remove: caches and left-overs of killed writers, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from cafe.errors import BusyError, CacheError
from cafe.store import FeatureCache
from cafe.store.files import lock_file, locks, temporary_folder
from cafe.store.removal import (
    Hidden,
    check_removable,
    find_interrupted,
    find_left_overs,
    prune,
    remove_cache,
)


@pytest.fixture
def home(noise_cache: Path) -> Path:
    return noise_cache.parents[1]


def test_a_cache_goes_with_its_folder(noise_cache: Path, home: Path) -> None:
    size = noise_cache.stat().st_size
    assert remove_cache(noise_cache, home) == size
    assert list(home.iterdir()) == []


def test_another_cache_of_the_folder_stays(noise_cache: Path, home: Path) -> None:
    other = shutil.copy(noise_cache, noise_cache.with_name("other.none.h5"))
    remove_cache(noise_cache, home)
    assert list(noise_cache.parent.iterdir()) == [other]


def test_a_folder_that_is_not_of_caches_stays(noise_cache: Path, home: Path) -> None:
    folder = home.parent / "desktop"
    folder.mkdir()
    copy = shutil.copy(noise_cache, folder / "copy.h5")
    remove_cache(copy, home)
    assert list(folder.iterdir()) == []


def thesis(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7 cafe_format")


def photograph(path: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0 a jpeg")


def empty(path: Path) -> None:
    path.touch()


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = [1.0, 2.0]


@pytest.mark.parametrize("make", [thesis, photograph, empty, other_hdf5])
@pytest.mark.parametrize("place", ["thesis.pdf", "noise/ViT.tag.h5", "alone/ViT.tag.h5"])
def test_what_is_no_cache_is_kept(home: Path, place: str, make: Callable[[Path], None]) -> None:
    path = home / place
    path.parent.mkdir(exist_ok=True)
    make(path)
    before = path.read_bytes()
    with pytest.raises(CacheError, match=r"is no cache of cafe, and is kept"):
        remove_cache(path, home)
    assert path.read_bytes() == before
    assert [p for p in path.parent.iterdir() if p.name.endswith(".lock")] == []


def test_links_folders_and_nothing_are_kept(noise_cache: Path, home: Path) -> None:
    link = noise_cache.with_name("link.none.h5")
    link.symlink_to(noise_cache)
    with pytest.raises(CacheError, match="is a link"):
        remove_cache(link, home)
    with pytest.raises(CacheError, match="cannot remove"):
        remove_cache(noise_cache.parent, home)
    with pytest.raises(CacheError, match="cannot remove"):
        remove_cache(noise_cache.with_name("none.none.h5"), home)
    assert link.is_symlink()
    assert FeatureCache.open(noise_cache)


def test_a_truncated_cache_goes_where_caches_are(noise_cache: Path, home: Path) -> None:
    data = noise_cache.read_bytes()[:5000]
    elsewhere = home.parent / "truncated.h5"
    for path in (noise_cache, elsewhere):
        path.write_bytes(data)
    with pytest.raises(CacheError, match="is no cache of cafe"):
        remove_cache(elsewhere, home)
    assert remove_cache(noise_cache, home) == 5000


def test_a_damaged_cache_goes(noise_cache: Path, home: Path) -> None:
    with h5py.File(noise_cache, "r+") as file:
        del file["splits"]
    assert check_removable(noise_cache, home)
    remove_cache(noise_cache, home)


def test_a_cache_that_is_being_written_stays(noise_cache: Path, home: Path) -> None:
    with lock_file(noise_cache), pytest.raises(BusyError, match="another process is writing"):
        remove_cache(noise_cache, home)
    assert FeatureCache.open(noise_cache)


def leave(folder: Path, content: bytes = b"half") -> Path:
    """What a writer leaves that is killed while it writes."""
    left = folder / ".cafe-0123456789abcdef.writing"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "half.h5").write_bytes(content)
    return left


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_left_overs_are_counted_and_removed(noise_cache: Path, home: Path) -> None:
    before = names(home)
    leave(noise_cache.parent)
    leave(home / "killed")
    noise_cache.with_name(f".{noise_cache.name}.lock").touch()
    noise_cache.with_name(".old.none.h5.writing").write_bytes(b"old")  # of a cafe before this one
    assert find_left_overs(home) == Hidden(4, 11)
    assert names(home) != before
    assert prune(home) == Hidden(4, 11)
    assert find_left_overs(home) == Hidden(0, 0)
    assert names(home) == before
    assert prune(home) == Hidden(0, 0)


def test_finished_work_is_kept_until_it_is_given_up(noise_cache: Path, home: Path) -> None:
    before = names(home)
    work = noise_cache.with_name(".big.none.h5.partial")
    work.mkdir()
    (work / "train-000000.npz").write_bytes(b"features")
    leave(work)
    noise_cache.with_name(".new.none.h5.partial").mkdir()  # nothing was finished there
    assert find_interrupted(home) == Hidden(1, 12)
    assert prune(home) == Hidden(2, 4)
    assert find_interrupted(home) == Hidden(1, 8)
    with lock_file(noise_cache.with_name("big.none.h5")):
        assert find_interrupted(home) == Hidden(0, 0), "it is under way"
        assert prune(home, interrupted=True) == Hidden(0, 0)
    assert prune(home, interrupted=True) == Hidden(1, 8)
    assert names(home) == before


def test_what_a_living_writer_has_is_kept(noise_cache: Path, home: Path) -> None:
    with lock_file(noise_cache), temporary_folder(noise_cache.parent) as folder:
        (folder / "half.h5").write_bytes(b"half")
        assert find_left_overs(home) == Hidden(0, 0)
        assert prune(home) == Hidden(0, 0)
        assert (folder / "half.h5").exists()
    assert names(home) == ["noise", "noise/tiny.none.h5"]


def test_without_locks_nothing_is_removed(
    noise_cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(noise_cache.parent)
    noise_cache.with_name(f".{noise_cache.name}.lock").touch()
    monkeypatch.setattr(locks, "_try_lock", lambda descriptor: None)
    assert prune(home) == Hidden(0, 0)
    assert (left / "half.h5").exists()


@pytest.mark.parametrize(
    "name", [".cafe-.writing", ".cafe-thesis.writing", ".cafe-0123456789ABCDEF.writing"]
)
def test_folders_of_others_are_kept(noise_cache: Path, home: Path, name: str) -> None:
    (noise_cache.parent / name).mkdir()
    prune(home, interrupted=True)
    assert (noise_cache.parent / name).is_dir()


@pytest.mark.parametrize(
    "name", [".cafe-0123456789abcdef.writing", ".x.none.h5.partial", ".x.none.h5.lock"]
)
def test_links_are_not_followed(noise_cache: Path, home: Path, name: str) -> None:
    thesis = home.parent / "thesis"
    thesis.mkdir()
    (thesis / "chapter").write_text("text")
    (noise_cache.parent / name).symlink_to(thesis)
    prune(home, interrupted=True)
    assert names(thesis) == ["chapter"]
    assert os.path.lexists(noise_cache.parent / name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert prune(tmp_path / "none") == Hidden(0, 0)
    assert names(tmp_path) == []
