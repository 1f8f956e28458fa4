"""What must hold in a working folder whatever happened to the commands that ran in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from faults.harness import Answer, Cafe

import cafe as library
from cafe.results.page import read_grid_rows, read_page
from cafe.results.record import read_record
from cafe.store import FeatureCache, verify_cache
from cafe.store.paths import list_caches


def check_whole(work: Path) -> None:
    """Every file and run under its own name is complete and says what it said when written."""
    for path in list_caches(work / "cache"):
        assert verify_cache(path).problems == ()
        assert FeatureCache.open(path)
    for run in work.glob("*runs/[!.]*"):
        record = read_record(run)
        read_page(run)
        files = list(run.glob("*.safetensors"))
        seeds = 0 if record.runs else len(record.protocol.seeds)  # an average has no heads
        assert len(files) == seeds * len(record.results), run
        assert all((run.parent / name).is_dir() for name in record.runs or ())
        for file in files:
            library.load_head(file)
        if record.json.get("best_per_shots"):
            assert read_grid_rows(run)
    for path in work.glob("[!.]*/model.json"):
        assert library.load_model(path.parent).record.estimate is not None
    for path in work.glob("[!.]*"):
        check_file(path)


def check_file(path: Path) -> None:
    """An exported file can be read."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            assert all(file[name].shape is not None for name in file)
    elif path.suffix == ".pt2":
        torch.export.load(path)
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    elif path.suffix == ".md":
        assert path.read_text(encoding="utf-8").endswith("\n")
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118


def hidden(work: Path) -> list[str]:
    """What lies hidden in a working folder: left-overs, locks, unfinished work."""
    return sorted(
        str(path.relative_to(work)) for path in work.rglob(".*") if path.name != ".gitignore"
    )


def content(work: Path) -> dict[str, bytes]:
    """Every file that is not hidden."""
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in sorted(work.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(work).parts)
    }


def is_one_line(answer: Answer, *texts: str) -> bool:
    """Whether a command failed with one line, after its notes, that holds one of the texts."""
    *notes, line = answer.err.splitlines() or [""]
    return (
        answer.code in (1, 2)
        and line.startswith("cafe: ")
        and any(text in line for text in texts)
        and not any(note.startswith(("cafe: ", "Traceback", " ")) for note in notes)
    )


def check_sweeps(cafe: Cafe, work: Path) -> None:
    """`ls` counts what a killed command left among the caches, `prune` removes it."""
    listed = cafe.run(["cache", "ls"], work)
    assert listed.code == 0, listed.err
    left = set(hidden(work / "cache")) - unfinished(work)
    assert ("left-overs of killed writers" in listed.err) == bool(left), (listed.err, left)
    assert cafe.run(["cache", "prune"], work).code == 0
    assert set(hidden(work / "cache")) == unfinished(work)


def unfinished(work: Path) -> set[str]:
    """Folders with finished blocks of extractions."""
    folders = (work / "cache").glob("*/.*.partial")
    return {str(f.relative_to(work / "cache")) for f in folders if any(f.glob("*.npz"))}
