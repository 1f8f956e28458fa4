"""What mkdocs does for cafe's site: pages from beside docs/, and a notebook as a page.

Links of the repository go from file to file, so that they work where the sources are read. Pages
outside of docs/ become pages of the site where they are listed here; of other files the name stays.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from help_as_lists import help_as_lists
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("cache/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "cafe/encoders/nano/README.md")
RESULTS = "benchmarks/results"
LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?!\w+:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)
HELP = re.compile(r"^```\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and each notebook as a page."""
    results = (f"{RESULTS}/{path.name}" for path in (ROOT / RESULTS).glob("*.md"))
    for name in (*OUTSIDE, *results):
        files.append(File.generated(config, page_name(name), abs_src_path=str(ROOT / name)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = as_markdown(json.loads(Path(str(notebook.abs_src_path)).read_text("utf-8")))
        name = notebook.src_uri.replace(".ipynb", "-notebook.md")
        files.append(File.generated(config, name, content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Write the index of the search as a script too: opened from a file, a page stops without it.

    Material's own plugin `offline` does so as well, but loads a script from another host.
    """
    index = Path(config.site_dir) / "search/search_index.json"
    script = f"var __index = {index.read_text('utf-8')}"
    index.with_suffix(".js").write_text(script, encoding="utf-8")


def page_name(name: str) -> str:
    """Where the site has a page from outside of docs/; no README, which would be an index."""
    return f"source/{name.replace('README.md', 'about.md')}"


def on_page_markdown(
    markdown: str,
    page: Page,
    config: MkDocsConfig,  # noqa: ARG001 - as mkdocs calls it
    files: Files,
) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here, own = _source(page.file), page.file.src_uri
    if own == "cli.md":  # a terminal's 80 columns are no page for a phone
        markdown = HELP.sub(lambda block: f"{help_as_lists(block[1])}\n", markdown)
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _site_link(link, here, own, files), p) for p in parts[::2]]
    return "".join(parts)


def _source(file: File) -> Path:
    """The file of the repository that a page is made from."""
    docs = ROOT / "docs"
    path = file.abs_src_path
    return Path(path) if path else docs / file.src_uri


def _site_link(link: re.Match[str], here: Path, own: str, files: Files) -> str:
    path = Path(os.path.normpath(here.parent / link["target"]))
    name = path.relative_to(ROOT).as_posix()
    inside = name.removeprefix("docs/") if name.startswith("docs/") else page_name(name)
    found = files.get_file_from_path(inside.replace(".ipynb", "-notebook.md"))
    if found is None:
        return f"{link['text']} (`{name}`)" if name not in link["text"] else link["text"]
    relative = os.path.relpath(found.src_uri, Path(own).parent)
    return f"[{link['text']}]({relative}{link['anchor'] or ''})"


def as_markdown(notebook: dict[str, Any]) -> str:
    """The cells of a notebook, with the texts and pictures that they gave."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).strip()
            yield f"![what the cell draws](data:image/png;base64,{picture})"
        elif found := "".join(data.get("text/plain", output.get("text", ""))).rstrip():
            yield f"```text\n{found}\n```"
