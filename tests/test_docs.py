"""Every command in the documentation runs, in order, on what ships with cafe."""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from cafe_cli.main import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- (?P<tag>[\w-]+) -->\n)?```sh\n(?P<code>.*?)```", re.DOTALL)
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def commands(page: Path) -> list[str]:
    """The `cafe` commands of a page; blocks tagged `not-run` are left out."""
    lines = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["tag"] != "not-run":
            lines += re.sub(r"\\\n\s*", "", block["code"]).strip().splitlines()
    return [line for line in lines if line.startswith("cafe ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a cache of the digits and a folder of photos."""
    folder = tmp_path_factory.mktemp("docs")
    for number, name in enumerate(("ash", "birch")):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(8):
            colour = (60 + 100 * number, 10 * index, 90)
            Image.new("RGB", (48, 40), colour).save(folder / f"photos/{name}/{index}.jpg")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(
    page: Path,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    shutil.rmtree("cache/photos", ignore_errors=True)  # what another page made of the same folder
    if commands(page):
        run("cafe extract --dataset digits", monkeypatch)
        (workplace / "cache/digits/nano.glyphs.h5").touch()  # the newest, as on a reader's machine
    for command in commands(page):
        capsys.readouterr()
        assert run(command, monkeypatch) == 0, f"{command}\n{capsys.readouterr().err}"


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_generated_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    make_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_docs)
    wanted = make_docs.cli_page()
    assert (ROOT / "docs/cli.md").read_text() == wanted, "run python scripts/make_docs.py"


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_runs(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda: None)  # it would outlive the test
    monkeypatch.setattr(logging.getLogger("cafe"), "setLevel", lambda _: None)
    run("cafe extract --dataset digits", monkeypatch)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - our own pages


def test_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 10


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
