"""`cafe --help` and `import cafe` stay light: nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "open_clip", "faiss", "h5py", "sklearn", "scipy", "numpy", "PIL", "rich")


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running some code."""
    report = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def run_cli(*words: str) -> str:
    return (
        f"import sys; sys.argv = ['cafe', *{words!r}]\n"
        "from cafe_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import cafe",
        run_cli("--help"),
        run_cli("fit", "--help"),
        run_cli("extract", "--help"),
        run_cli("cache", "--help"),
        run_cli("methods", "--help"),
        run_cli("--version"),
    ],
)
def test_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


@pytest.mark.parametrize("name", ["h5py", "faiss", "numpy"])
def test_the_check_can_fail(name: str) -> None:
    assert name in loaded_by(f"import cafe; import {name}")
