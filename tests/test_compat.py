"""Importing torchvision and open_clip, also where they do not fit the installed torch."""

import importlib
import subprocess
import sys
from typing import NoReturn

import pytest

from cafe import compat as vision
from cafe.errors import WeightsError


def test_both_import_and_torchvision_has_what_the_catalog_names() -> None:
    code = """
from cafe import compat as vision
from cafe.datasets.catalog import KNOWN
datasets = vision.import_torchvision().datasets
assert all(hasattr(datasets, row.torchvision) for row in KNOWN if row.torchvision)
vision.import_open_clip().create_model_and_transforms
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> NoReturn:
        raise RuntimeError(f"{name} is broken\nin many ways")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(WeightsError, match=r"torchvision \(torchvision is broken in many ways"):
        vision.import_torchvision()


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(WeightsError, match=r"cannot import open_clip .* install open_clip_torch"):
        vision.import_open_clip()
