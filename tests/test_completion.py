"""What a shell completes, and that it need not wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_lazy_imports import loaded_by

CASES = [
    ("fit d", ["digits/ViT-B-32.openai", "digits/nano.glyphs"]),
    ("cache show digits/n", ["digits/nano.glyphs"]),
    ("cache rm ", ["digits/ViT-B-32.openai", "digits/nano.glyphs", "photos/RN50.openai"]),
    ("compare photos/RN50.openai digits/V", ["digits/ViT-B-32.openai"]),
    ("grid --cache other/place z", ["zebras/nano.glyphs"]),
    ("fit --dataset ", ["digits", "photos"]),
    ("fit --model R", ["RN50"]),
    ("fit --method tip-adapter", ["tip-adapter", "tip-adapter-f"]),
    ("compare --method gda,kn", ["gda,knn"]),
    ("methods z", ["zero-shot", "zlap"]),
    ("predict runs --method linear", ["linear-probe"]),
    ("extract dig", ["digits"]),
    ("extract stan", ["stanford_cars"]),
    ("extract ./pho", []),  # the shell's own
    ("extract digits --model ViT-B-32-quick", ["ViT-B-32-quickgelu"]),
    ("extract digits --model nan", ["nano"]),
    ("runs show 2", ["20260131-120000-digits-nano"]),
    ("runs rm --runs other 2", ["20250101-000000-x-y"]),
    ("run", ["runs"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Caches and runs, as far as their names go."""
    for name in ("digits/nano.glyphs", "digits/ViT-B-32.openai", "photos/RN50.openai"):
        (tmp_path / f"cache/{name}.h5").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"cache/{name}.h5").touch()
    (tmp_path / "cache/digits/.hidden.x.h5").touch()
    (tmp_path / "cache/digits/\x1b[31m.x.h5").touch()
    (tmp_path / "other/place/zebras").mkdir(parents=True)
    (tmp_path / "other/place/zebras/nano.glyphs.h5").touch()
    for run in ("runs/20260131-120000-digits-nano", "other/20250101-000000-x-y"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "record.json").touch()
    return tmp_path


def environment(line: str) -> dict[str, str]:
    """What bash tells of a line whose end is to be completed."""
    words = f"cafe {line}"
    count = len(words.split(" ")) - 1
    return {"_CAFE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}


@pytest.mark.parametrize(("line", "names"), CASES)
def test_names(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    names: list[str],
) -> None:
    from cafe_cli.main import main

    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    monkeypatch.setattr(sys, "argv", ["cafe"])
    for name, value in environment(line).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    found = capsys.readouterr()
    assert (found.out.split(), found.err) == (names, "")


def test_the_cache_folder_of_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFE_CACHE", str(folder / "other/place"))
    command = [sys.executable, "-m", "cafe_cli"]
    variables = {**os.environ, **environment("fit ")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["zebras/nano.glyphs"], "")


@pytest.mark.parametrize("line", ["fit d", "extract s", "extract d --model V", "fit --method g"])
def test_nothing_heavy_is_loaded(folder: Path, line: str) -> None:
    code = (
        f"import os, sys; os.chdir({str(folder)!r}); sys.argv = ['cafe']\n"
        f"os.environ.update({environment(line)!r})\n"
        "from cafe_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    assert loaded_by(code) == set()
