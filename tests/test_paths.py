"""The folder of caches: names there and back, and the caches that words mean."""

import os
from pathlib import Path

import pytest

from cafe.errors import CacheNotFoundError, InputError, UnknownNameError
from cafe.store import FeatureCache
from cafe.store.paths import (
    cache_folder,
    cache_name,
    cache_path,
    find_caches,
    list_caches,
    named_path,
)


def plant(home: Path, *names: str) -> None:
    for age, name in enumerate(names):
        path = named_path(home, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))


def test_home_is_what_is_given_else_the_environment_else_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    assert cache_folder() == Path("cache")
    monkeypatch.setenv("CAFE_CACHE", "/else/where")
    assert cache_folder() == Path("/else/where")
    assert cache_folder("given") == Path("given")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("digits", "nano", "glyphs"), "digits/nano.glyphs.h5"),
        (("my data/x", "ViT-B/16", "a b"), "my-data-x/ViT-B-16.a-b.h5"),
        (("..", "../..", "/etc"), "unnamed/unnamed.etc.h5"),
        (("日本", "é", "x"), "日本/é.x.h5"),
    ],
)
def test_paths_stay_in_the_home(parts: tuple[str, str, str], name: str, tmp_path: Path) -> None:
    assert cache_path(tmp_path, *parts) == tmp_path / name


def test_names_there_and_back(tmp_path: Path) -> None:
    path = named_path(tmp_path, "whu-rs19/ViT-B-32.openai")
    assert path == tmp_path / "whu-rs19" / "ViT-B-32.openai.h5"
    assert cache_name(path) == "whu-rs19/ViT-B-32.openai"
    assert named_path(tmp_path, "whu-rs19/ViT-B-32.openai.h5") == path


@pytest.mark.parametrize("name", ["", "x", "a/b", "a/b/c.d", "/a.b", "a/"])
def test_names_of_another_form(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names no cache; the form is dataset/model\.pretrained"):
        named_path(tmp_path, name)


def test_caches_are_listed_newest_first_without_what_is_being_written(tmp_path: Path) -> None:
    plant(tmp_path, "a/m.x", "b/m.x", "a/n.x")
    (tmp_path / "a" / ".m.x.h5.writing").touch()
    (tmp_path / "a" / ".k.x.h5").touch()
    assert [cache_name(path) for path in list_caches(tmp_path)] == ["a/m.x", "b/m.x", "a/n.x"]
    assert list_caches(tmp_path / "nowhere") == []


def test_words_find_caches(tmp_path: Path) -> None:
    plant(tmp_path, "a/m.x", "b/m.x", "a/n.x")

    def found(*args: str, **filters: str) -> list[str]:
        return [cache_name(path) for path in find_caches(tmp_path, *args, **filters)]

    assert found() == ["a/m.x", "b/m.x", "a/n.x"]
    assert found("a/n.x") == ["a/n.x"]
    assert found(str(tmp_path / "a" / "n.x.h5")) == ["a/n.x"]
    assert found(dataset="a") == ["a/m.x", "a/n.x"]
    assert found(model="m") == ["a/m.x", "b/m.x"]
    assert found(dataset="b", model="m") == ["b/m.x"]


def test_short_names_mean_the_one_cache_that_has_them(tmp_path: Path) -> None:
    plant(tmp_path, "photos/nano.glyphs", "dtd/ViT-B-32.openai", "dtd/ViT-B-32.laion", "dtd/RN50.x")
    for short, name in (
        ("photos", "photos/nano.glyphs"),
        ("photos/nano", "photos/nano.glyphs"),
        ("dtd/RN50", "dtd/RN50.x"),
        ("dtd/RN50.x", "dtd/RN50.x"),
    ):
        assert [cache_name(path) for path in find_caches(tmp_path, short)] == [name]
    with pytest.raises(InputError, match=r"'dtd' means 3 caches in .*: dtd/RN50\.x, dtd/ViT-B-32"):
        find_caches(tmp_path, "dtd")
    with pytest.raises(InputError, match=r"'dtd/ViT-B-32' means 2 caches"):
        find_caches(tmp_path, "dtd/ViT-B-32")
    assert [p.name for p in find_caches(tmp_path, "dtd", model="RN50")] == ["RN50.x.h5"]
    for unknown in ("foto", "photos/RN", "dtd/ViT"):
        with pytest.raises(UnknownNameError, match=f"unknown cache '{unknown}'"):
            find_caches(tmp_path, unknown)


def test_words_that_find_none(tmp_path: Path) -> None:
    with pytest.raises(CacheNotFoundError, match=r"no cache in .*'cafe extract digits'"):
        find_caches(tmp_path)
    plant(tmp_path, "eurosat/nano.glyphs")
    with pytest.raises(UnknownNameError, match=r"did you mean eurosat/nano.glyphs"):
        find_caches(tmp_path, "eurosta/nano.glyphs")
    with pytest.raises(CacheNotFoundError, match=r"no cache of dtd RN50 in .*extract dtd"):
        find_caches(tmp_path, dataset="dtd", model="RN50")
    with pytest.raises(CacheNotFoundError, match=r"no cache 'nowhere.h5'"):
        find_caches(tmp_path, "nowhere.h5")


def test_a_folder_of_images_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path, "dtd/m.x")
    for folder, hint in (("./dtd", "name its cache, dtd/m.x"), ("./new", "'cafe extract ./new'")):
        Path(folder).mkdir(exist_ok=True)
        with pytest.raises(
            CacheNotFoundError, match=f"'{folder}' is a folder and no cache; {hint}"
        ):
            find_caches(tmp_path, folder)


def test_what_only_has_a_caches_name(tmp_path: Path) -> None:
    plant(tmp_path, "a/m.x")
    (tmp_path / "a" / "gone.x.h5").symlink_to("nowhere")
    (tmp_path / "a" / "loop.x.h5").symlink_to("loop.x.h5")
    (tmp_path / "a" / "folder.x.h5").mkdir()
    assert list_caches(tmp_path)[0].name == "m.x.h5"
    assert len(list_caches(tmp_path)) == 4  # `ls` says what is wrong with them
    assert [path.name for path in find_caches(tmp_path)] == ["m.x.h5"]
    for name, what in (("gone", "a link to nothing"), ("loop", "a link"), ("folder", "no file")):
        with pytest.raises(CacheNotFoundError, match=rf"{name}\.x\.h5': it is {what}"):
            find_caches(tmp_path, f"a/{name}.x")
        with pytest.raises(CacheNotFoundError, match=f"it is {what}"):
            FeatureCache.open(tmp_path / "a" / f"{name}.x.h5")
