"""The lowest versions of dependencies that are allowed are those that are tested."""

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = {"mypy", "ruff", "selenium", "setuptools"}  # lint, types, a browser, the build
NOT_RUN |= {"ipykernel", "mkdocs-material", "mkdocstrings", "nbclient", "nbformat"}  # the site


def split(line: str, by: str) -> tuple[str, str]:
    """A requirement's name and version."""
    name, number = re.split(by, line.partition(";")[0].strip())
    return re.sub(r"\[.*\]", "", name), number


def floors() -> dict[str, str]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for lines in lists for line in lines if not line.startswith("cafe-clip")]
    return dict(split(line, ">=") for line in lines)


def padded(number: str) -> str:
    return ".".join([*number.split("."), "0", "0"][:3])


def test_the_lowest_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pinned = dict(split(line, "==") for line in lines if not line.startswith("#"))
    allowed = {name: padded(floor) for name, floor in floors().items() if name not in NOT_RUN}
    assert pinned == allowed
    assert lines[1:] == sorted(lines[1:], key=str.lower)


@pytest.mark.parametrize("name", ["torch", "open_clip_torch", "scikit-learn"])
def test_what_is_installed_is_allowed(name: str) -> None:
    def parts(number: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", number)[:2]]

    assert parts(version(name)) >= parts(floors()[name])


def test_the_script_names_files_that_are_there() -> None:
    named = re.findall(r"tests/\w+\.py", (ROOT / "scripts/test-versions").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
