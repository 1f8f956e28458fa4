"""The documentation as a site: it builds without a warning, asks no host, and tells the truth."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cafe
from cafe.errors import how_to_install

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MOST_BYTES_OF_PICTURES = 1_500_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as a reader of CONTRIBUTING.md builds it."""
    pytest.importorskip("mkdocs", reason=how_to_install("docs"))
    pytest.importorskip("mkdocstrings", reason=how_to_install("docs"))
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_asks_no_host(site: Path) -> None:
    loaded = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="(https?:|//)[^"]*"')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not loaded.search(page.read_text(encoding="utf-8")), page


def test_a_page_that_is_opened_from_a_file_finds_the_index_of_its_search(site: Path) -> None:
    # else its script ends there, and the switch to dark does nothing
    index = (site / "search/search_index.js").read_text(encoding="utf-8")
    assert json.loads(index.removeprefix("var __index = "))["docs"]


def test_links_to_the_sources_lead_to_pages(site: Path) -> None:
    text = (site / "methods.html").read_text(encoding="utf-8")
    assert 'href="source/benchmarks/results/unequal.html"' in text
    assert 'href="source/cache/about.html' in (site / "own-data.html").read_text(encoding="utf-8")
    assert "(<code>benchmarks/train.py</code>" not in text  # what is no page stays a name
    for page in set(site.rglob("*.html")) - {site / "404.html"}:  # which may be shown anywhere
        links = re.findall(r'href="(?!\w+:|#|//)([^"#?]+)', page.read_text(encoding="utf-8"))
        missing = [link for link in links if not (page.parent / link).exists()]
        assert missing == [], page


def test_options_are_lists_that_wrap_on_a_phone(site: Path) -> None:
    text = (site / "cli.html").read_text(encoding="utf-8")
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    listed = re.findall(r"^Options:\n((?:.+\n)+)", page, re.MULTILINE)
    options = re.findall(r"^  -", "".join(listed), re.MULTILINE)
    assert text.count("<li><code>-") == len(options) > 200
    bare = re.sub(r"<[^>]*>", "", text)
    assert "zero-shot,clip-adapter --shots 1,4,16" in bare  # an example of two lines
    assert "[default: auto,map-probe]" in text  # which the terminal breaks at its hyphen


def test_the_notebook_is_a_page(site: Path) -> None:
    text = (site / "tour-notebook.html").read_text(encoding="utf-8")
    assert "A tour in Python" in text
    assert "shots" in text


def test_every_public_name_is_in_the_api(site: Path) -> None:
    named = re.findall(r"^::: cafe\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(cafe.__all__)
    text = (site / "api.html").read_text(encoding="utf-8")
    assert [name for name in named if f'id="cafe.{name}"' not in text] == []


@pytest.mark.filterwarnings("ignore")  # of the notebook's machinery
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason=how_to_install("docs"))
    nbclient = pytest.importorskip("nbclient", reason=how_to_install("docs"))
    pytest.importorskip("ipykernel", reason=how_to_install("docs"))
    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    assert (tmp_path / "report.html").is_file()
    assert _printed(notebook) == _printed(json.loads((DOCS / "tour.ipynb").read_text()))


def _printed(notebook: Any) -> list[list[str]]:
    """The words that each cell prints, numbers left out: they differ between machines."""
    texts = [
        "".join(
            "".join(output["text"])
            for output in cell.get("outputs", ())
            if output.get("name") == "stdout"
        )
        for cell in notebook["cells"]
    ]
    return [sorted(re.findall(r"[a-z][a-z-]+", text))[:1] for text in texts]


def messages() -> list[str]:
    """The messages that docs/trouble.md quotes: the first column of its tables."""
    rows = re.findall(r"^\| `([^`]+)`", (DOCS / "trouble.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    return rows


@pytest.fixture(scope="module")
def said() -> str:
    """All texts in the sources, those of one message together."""
    paths = [*ROOT.glob("cafe/**/*.py"), *ROOT.glob("cli/**/*.py")]
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return "\n".join(text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_that_cafe_gives(message: str, said: str) -> None:
    parts = [part.strip() for part in message.split("...")]
    assert [part for part in parts if part not in said] == []


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in DOCS.rglob("*.png")) < MOST_BYTES_OF_PICTURES
    shown = re.findall(r"!\[[^\]]+\]\(img/([\w-]+\.png)\)", (DOCS / "gallery.md").read_text())
    assert sorted(shown) == sorted(path.name for path in DOCS.glob("img/*.png"))
