"""Files whose values were edited and whose digests were made right again: no traceback, ever.

`CAFE_LONG_FAULTS=1` tries ten times as many edits.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cafe
from cafe.errors import CafeError, InputError
from cafe.methods.meta_adapter.weights import load_meta
from cafe.methods.tensor_file import pack, read_about
from cafe.results.page import read_grid_rows, read_page
from cafe.results.record import read_record
from cafe.results.runs import HeadSelector, find_head
from cafe.store import Block, Header, write_cache
from cafe_cli.main import main

WRITTEN = Path(__file__).parents[1] / "data" / "written_by_0_1"
FACTOR = 10 if os.environ.get("CAFE_LONG_FAULTS") else 1
VALUES = [
    None, True, -1, 0, 1, 3, 10**12, -0.5, 1.5, 1e308, float("nan"), float("inf"),
    "", "x", "auto", "../up", "\x1b[31m", "\0", "nan", "a" * 5000, [], [1], [[]], {}, {"a": 1},
]  # fmt: skip

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Tensor.mT is deprecated"),
    pytest.mark.filterwarnings("ignore:overflow encountered"),  # text of 1e15, as float16
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, part in inside:
        yield from places(part, (*path, key))


def edit(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with one place changed, removed or doubled."""
    copy = json.loads(json.dumps(value))
    *way, last = chance.choice(list(places(copy)))
    owner = copy
    for key in way:
        owner = owner[key]
    kind = chance.random()
    if kind < 0.15:
        del owner[last]
    elif kind < 0.25 and isinstance(owner, list):
        owner.append(owner[last])
    else:
        owner[last] = chance.choice(VALUES)
    return copy


def runs_without_traceback(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command in this process; a bug raises."""
    monkeypatch.setattr(sys, "argv", ["cafe", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def is_refused_or(use: Callable[[], object]) -> None:
    """It works, or says in one line why not."""
    message = ""
    try:
        use()
    except CafeError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2000


HEADER_FIELDS = ("key", "dataset", "class_names", "sentences", "logit_scale", "logit_bias",
                 "source", "missing", "skipped", "versions", "created")  # fmt: skip


def edited_header(header: Header, chance: random.Random) -> Header:
    field = chance.choice(HEADER_FIELDS)
    value = edit({field: _plain(getattr(header, field))}, chance).get(field)
    if chance.random() < 0.2:
        return replace(
            header, text_features=chance.choice([0, 1e30, np.nan]) * header.text_features
        )
    return replace(header, **{field: value})


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value if not isinstance(value, tuple) else list(value)))


FIT = ("--shots", "2", "--seeds", "1")
NAME = "few/tiny.none"
ENCODER = ("--model", "tiny.json", "--pretrained", "none")
OTHERS = [
    ("compare", NAME, "--methods", "zero-shot,tip-adapter,knn,auto", *FIT),
    ("compare", NAME, "--methods", "zero-shot,gda", "--base-to-new", *FIT),
    ("grid", NAME, "--ratio", "0.2", "--bottleneck", "2", "--epochs", "1", "--yes", *FIT),
    ("cache", "merge", "all/tiny.none", NAME, "given/tiny.none"),
    ("meta-train", NAME, "-o", "new.safetensors", "--shots", "2", "--epochs", "1"),
    ("predict", "runs/compare", "few/test/one", "--explain", *ENCODER),
    ("export", "runs/compare", "-o", "new.safetensors"),
    ("report", "runs/compare", "-o", "page.html"),
]


@pytest.mark.parametrize("seed", range(60 * FACTOR))
def test_caches(
    seed: int, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)  # noqa: S311 - not cryptography
    path = work / "cache/few/tiny.none.h5"
    cache = cafe.FeatureCache.open(path)
    blocks = {}
    for split in cache.counts:
        arrays = cache.read(split)
        labels = arrays.labels.astype(np.int32)
        if chance.random() < 0.1:
            labels[0] = chance.choice([-1, 99, 2**31 - 1])
        blocks[split] = [Block(cache.ids(split), labels, arrays.features)]
    for _ in range(50):
        with contextlib.suppress(Exception):  # no file can hold this edit: another
            write_cache(path, edited_header(cache.header, chance), blocks)
            break
    else:
        pytest.fail("no edit could be written")
    for words in (
        ("cache", "ls"),
        ("cache", "show", NAME),
        ("cache", "verify", NAME),
        ("cache", "export", NAME, "out.npz"),
        ("fit", NAME, "--method", "gda", *FIT),
        OTHERS[seed % len(OTHERS)],
    ):
        assert runs_without_traceback(monkeypatch, *words) in (0, 1, 2), words
        assert "\x1b[31m" not in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["train", "val", "test", "train val", "val test"])
def test_caches_that_lack_splits(
    kept: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / f"cache/{NAME}.h5"
    cache = cafe.FeatureCache.open(path)
    arrays = {split: cache.read(split) for split in kept.split()}
    blocks = {
        split: [Block(cache.ids(split), of.labels.astype(np.int32), of.features)]
        for split, of in arrays.items()
    }
    write_cache(path, cache.header, blocks)
    for words in (
        ("fit", NAME, "--method", "gda"),
        ("compare", NAME, "--methods", "zero-shot,gda"),
        ("compare", NAME, "--methods", "zero-shot,gda", "--base-to-new"),
        ("grid", NAME, "--ratio", "0.2", "--bottleneck", "2", "--epochs", "1", "--yes"),
    ):
        assert runs_without_traceback(monkeypatch, *words) in (1, 2), words
        assert "split" in capsys.readouterr().err.splitlines()[-1]


RUNS = sorted(path.name for path in (WRITTEN / "runs").iterdir() if path.name[0] != ".")


@pytest.mark.parametrize("run", RUNS)
def test_records(run: str, work: Path) -> None:
    folder = work / "runs" / run
    chance = random.Random(run)  # noqa: S311
    for file in ("record.json", "page.json", "grid.jsonl"):
        path = folder / file
        if not path.exists():
            continue
        text = path.read_text()
        lines = text.splitlines() if file.endswith("l") else [text]
        for _ in range(40 * FACTOR):
            edited = [json.dumps(edit(json.loads(line), chance)) for line in lines[:1]]
            path.write_text("\n".join([*edited, *lines[1:]]))
            is_refused_or(lambda: read_record(folder))
            is_refused_or(lambda: read_page(folder))
            is_refused_or(lambda: read_grid_rows(folder))
        path.write_text(text)


@pytest.mark.parametrize("run", RUNS)
def test_reports(
    run: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(f"report {run}")  # noqa: S311
    for file in ("record.json", "page.json"):
        path = work / "runs" / run / file
        text = path.read_text()
        for _ in range(2 * FACTOR):
            path.write_text(json.dumps(edit(json.loads(text), chance)))
            words = ("report", f"runs/{run}", "-o", "page.html")
            assert runs_without_traceback(monkeypatch, *words) in (0, 1, 2)
        path.write_text(text)


HEADS = sorted((WRITTEN / "runs/compare").glob("*.safetensors"))


@pytest.mark.parametrize("head", HEADS, ids=lambda path: path.name.partition(".")[0])
def test_heads(head: Path, tmp_path: Path) -> None:
    chance = random.Random(head.name)  # noqa: S311
    tensors, about = load_file(head), read_about(head, "cafe")
    path = tmp_path / "head.safetensors"
    for number in range(60 * FACTOR):
        changed = dict(tensors)
        if number % 3 == 0:
            name = chance.choice(sorted(changed))
            changed[name] = edited_tensor(changed[name], chance)
            path.write_bytes(pack(changed, "cafe", about))
        else:
            path.write_bytes(pack(changed, "cafe", edit(about, chance)))
        is_refused_or(lambda: cafe.load_head(path).probabilities(torch.ones(2, 16)))


@pytest.mark.parametrize("seed", range(20 * FACTOR))
def test_commands_that_read_a_head(
    seed: int, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(f"head {seed}")  # noqa: S311
    path = work / "runs/compare" / HEADS[seed % len(HEADS)].name
    tensors, about = load_file(path), read_about(path, "cafe")
    if seed % 3 == 0:
        name = chance.choice(sorted(tensors))
        tensors[name] = edited_tensor(tensors[name], chance)
    path.write_bytes(pack(tensors, "cafe", edit(about, chance) if seed % 3 else about))
    for words in (
        ("predict", str(path), "few/test/one", "--explain", *ENCODER),
        ("export", str(path), "-o", "new.safetensors"),
    ):
        assert runs_without_traceback(monkeypatch, *words) in (0, 1, 2), words
        assert "\x1b[31m" not in capsys.readouterr().err


def edited_tensor(tensor: torch.Tensor, chance: random.Random) -> torch.Tensor:
    return chance.choice(
        [
            torch.full_like(tensor.float(), torch.nan),
            tensor.flatten()[:-1].clone(),
            tensor.repeat(2, *[1] * max(tensor.dim() - 1, 0)),
            tensor.mT.contiguous() if tensor.dim() > 1 else tensor.unsqueeze(0),
            tensor.long(),
            torch.zeros(0),
        ]
    )


HEAD = WRITTEN / "runs/compare/nearest-class.4shot.seed0.safetensors"


@pytest.mark.parametrize(
    "said",
    [
        {"calibration": {"temperature": 1.5, "source": [1], "images": 3}},
        {"calibration": {"temperature": 1.5, "source": "validation", "images": "many"}},
        {"cache_key": {"spatial": {"grid": "7"}}},
        {"cache_key": {"spatial": {"grid": []}}},
        {"encoder": {"model": "m", "pretrained": "t", "weights_sha256": [1]}},
    ],
    ids=str,
)
def test_what_only_an_export_or_an_explanation_reads(said: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(pack(load_file(HEAD), "cafe", {**read_about(HEAD, "cafe"), **said}))
    with pytest.raises(InputError, match=f"is damaged at '{next(iter(said))}"):
        cafe.load_head(path)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int32, torch.complex64])
def test_tensors_of_types_that_no_head_has(kind: torch.dtype, tmp_path: Path) -> None:
    """faiss takes them; a graph does not."""
    path = tmp_path / "head.safetensors"
    tensors = load_file(HEAD)
    name = next(name for name in tensors if not name.startswith("zero_shot."))
    tensors[name] = tensors[name].to(kind)
    path.write_bytes(pack(tensors, "cafe", read_about(HEAD, "cafe")))
    with pytest.raises(InputError, match="has type torch"):
        cafe.load_head(path)


def test_an_export_of_a_head_that_says_less(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = read_about(HEAD, "cafe")
    for left_out in ("baselines", "accuracy", "calibration", "versions", "created", "cache"):
        less = {name: value for name, value in about.items() if name != left_out}
        (work / "less.safetensors").write_bytes(pack(load_file(HEAD), "cafe", less))
        words = ("export", "less.safetensors", "-o", f"{left_out}.safetensors")
        assert runs_without_traceback(monkeypatch, *words) == 0, capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_for_a_head_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="no head"):
        cafe.load_head(tmp_path / "head.safetensors")


def test_a_page_with_fewer_classes_than_names(work: Path) -> None:
    path = work / "runs/compare/page.json"
    page = json.loads(path.read_text())
    page["results"][0]["per_class"].pop()
    path.write_text(json.dumps(page))
    with pytest.raises(InputError, match=r"does not have the \d+ classes"):
        read_page(path.parent)


def test_a_flipped_bit_in_a_head_is_seen(tmp_path: Path) -> None:
    """Of a head that is written now: those of version 0.1 have no digest."""
    source = WRITTEN / "runs/compare/clip-adapter.4shot.seed0.safetensors"
    data = bytearray(pack(load_file(source), "cafe", read_about(source, "cafe")))
    path, chance = tmp_path / "head.safetensors", random.Random(0)  # noqa: S311
    for _ in range(200 * FACTOR):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        data[place] ^= bit
        path.write_bytes(data)
        data[place] ^= bit
        with pytest.raises(CafeError):
            cafe.load_head(path)


def test_meta_files(tmp_path: Path) -> None:
    source = WRITTEN / "meta.safetensors"
    tensors, about = load_file(source), read_about(source, "cafe_meta")
    path, chance = tmp_path / "meta.safetensors", random.Random(1)  # noqa: S311
    for number in range(200 * FACTOR):
        changed = dict(tensors)
        if number % 3 == 0:
            name = chance.choice(sorted(changed))
            changed[name] = edited_tensor(changed[name], chance)
        path.write_bytes(pack(changed, "cafe_meta", edit(about, chance) if number % 3 else about))
        is_refused_or(lambda: load_meta(path))
    save_file(tensors, path)  # without a word of what it is
    with pytest.raises(CafeError):
        load_meta(path)


def test_a_run_knows_its_heads(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("fit", "few/tiny.none", "--method", "gda", "--shots", "2", "--seeds", "1")
    assert runs_without_traceback(monkeypatch, *words, "--runs", "new") == 0
    (head,) = (work / "new").glob("*/gda.*.safetensors")
    gda = HeadSelector(method="gda")
    assert find_head(head.parent, gda) == head
    shutil.copy(WRITTEN / "runs/compare/gda.4shot.seed0.safetensors", head)  # of another run
    with pytest.raises(InputError, match="is not the head that this run saved"):
        find_head(head.parent, gda)
    assert find_head(head) == head
