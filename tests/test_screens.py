"""What a command shows: names from strangers, narrow and plain terminals, streams that are gone."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from cafe.errors import STEERING, CafeError, visible
from cafe.store import Block, FeatureCache, Header, write_cache
from cafe_cli import output
from cafe_cli.heatmap import print_heatmaps
from cafe_cli.main import app, main
from cafe_cli.prediction_formats import FORMATS
from cafe_cli.signals import stopping_on_signals

ESCAPES = "\x1b[31mred\x1b]0;title\x07"
HOSTILE = (
    ESCAPES,
    "two\nlines\rcafe: all is well",
    "\x9b2J C1 \x85 \x7f",
    "turned \u202etxt.exe\u2069 \u2028line",
    "漢字の名前",
    "שלום עולם",
)
Cafe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cafe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Cafe:
    """Runs `cafe` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def make_cache(path: Path, **changes: Any) -> Path:
    """A cache whose every name is hostile, of features that a classifier can learn."""
    noise = np.random.default_rng(0)
    centres = noise.standard_normal((6, 8), np.float32)
    splits = {}
    for split, count in (("train", 4), ("val", 2), ("test", 4)):
        y = np.arange(6, dtype=np.int32).repeat(count)
        x = centres[y] + noise.standard_normal((len(y), 8), np.float32)
        splits[split] = [Block([f"{split}/{ESCAPES}/{row}.png" for row in range(len(y))], y, x)]
    values: dict[str, Any] = {
        "key": {"weights_sha256": None, "note": ESCAPES},
        "dataset": f"set {ESCAPES}",
        "model": f"model {ESCAPES}",
        "pretrained": f"tag {ESCAPES}",
        "class_names": HOSTILE,
        "sentences": tuple((f"a {name}",) for name in HOSTILE),
        "text_features": centres[:, None],
        "logit_scale": 50.0,
        "source": ESCAPES,
        "missing": (ESCAPES,),
        "skipped": (("train", ESCAPES, ESCAPES),),
        "versions": {"cafe-clip": ESCAPES},
        "created": ESCAPES,
    }
    write_cache(path, Header(**{**values, **changes}), splits)
    return path


def steered(text: str) -> list[str]:
    """What in an output a terminal would obey, line ends aside."""
    return [c for c in STEERING.findall(text) if c != "\n"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ESCAPES, r"\x1b[31mred\x1b]0;title\x07"),
        ("a\nb\tc\rd\0", r"a\nb\tc\rd\x00"),
        ("\x7f\x85\x9b", r"\x7f\x85\x9b"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("caf\udce9", r"caf\xe9"),  # a file's name that is not UTF-8
        ("\ud800", r"\ud800"),
        ("Ölweide 漢字 שלום é 👩‍👩‍👧 ", "Ölweide 漢字 שלום é 👩‍👩‍👧 "),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_no_command_lets_a_name_steer_the_terminal(cafe: Cafe, tmp_path: Path) -> None:
    path = make_cache(tmp_path / "cache" / "evil" / "m.t.h5")
    (tmp_path / f"cache/evil/other.{ESCAPES.replace('/', '')}.h5").write_bytes(b"no cache")
    runs = ["--runs", "runs", "--shots", "1", "--seeds", "1"]
    commands: list[list[object]] = [
        ["cache", "ls"],
        ["cache", "show", path],
        ["cache", "show", path, "--json"],
        ["cache", "verify", path],
        ["cache", "export", path, f"{ESCAPES}.npz".replace("/", "")],
        ["fit", path, *runs],
        ["fit", path, "--method", ESCAPES],
        ["fit", ESCAPES],
        ["fit", f"--{ESCAPES}"],
        [ESCAPES],
        ["compare", path, *runs, "--methods", "zero-shot,nearest-class"],
        ["grid", path, *runs, "--validation", "full", "--epochs", "1", "--ratio", "0.2"],
        ["report", "runs"],
        ["export", "runs"],
        ["predict", "runs", ESCAPES],
        ["predict", ESCAPES, ESCAPES],
        ["extract", "--dataset", ESCAPES],
        ["datasets", "--data-root", ESCAPES],
        ["methods", ESCAPES],
        ["cache", "import", f"{ESCAPES}.npz", f"a{ESCAPES}/b.{ESCAPES}"],
        ["cache", "rm", path],
        ["cache", "merge", "all/m.t", path, path],
        ["runs", "ls"],
        ["runs", "show"],
        ["runs", "show", ESCAPES],
        ["runs", "rm", ESCAPES, "--yes"],
    ]
    for words in commands:
        code, out, err = cafe(*words)
        assert steered(out + err) == [], words
        assert "Traceback" not in err
        assert not any(line.startswith("cafe: all is well") for line in (out + err).splitlines())
        assert code in (0, 1, 2)
    odd = [path.name for path in tmp_path.iterdir() if STEERING.search(path.name)]
    assert odd == [f"{ESCAPES}.npz"]  # which was asked for
    (card,) = tmp_path.glob("*.safetensors.md")
    text = card.read_text()
    assert steered(text) == []
    assert r"\\x1b\[31mred" in text


def test_json_is_read_back_and_steers_nothing(cafe: Cafe, tmp_path: Path) -> None:
    path = make_cache(tmp_path / "m.t.h5")
    _, out, _ = cafe("cache", "show", path, "--json")
    assert tuple(json.loads(out)["class_names"]) == HOSTILE


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_lines_of_json_are_read_back(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    output.prepare_streams()
    names = [*HOSTILE, "caf\udce9"]
    output.print_json(names, readable=True)
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == names
    assert steered(text) == []
    assert ("漢" in text) == (encoding == "utf-8")


def test_csv_is_for_programs_but_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for tty in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda tty=tty: tty)
        monkeypatch.setattr(sys, "stdout", stream)
        output.print_csv([ESCAPES, 0.5])
        assert stream.getvalue() == f"{visible(ESCAPES) if tty else ESCAPES},0.5\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis"])
def test_a_terminal_that_is_not_utf_8(
    cafe: Cafe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    path = make_cache(tmp_path / "m.t.h5")
    for words in (["fit", path, "--shots", "1", "--seeds", "2"], ["cache", "show", path]):
        raw, errors = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding))
        main()
        text = raw.getvalue().decode(encoding)
        if words[0] == "fit":
            sign = "±" if "±".encode(encoding, "ignore") else "+-"
            assert f" {sign} " in text
            rows = [line for line in text.splitlines() if line.startswith(" zero-shot")]
            assert len(rows) == 1
            assert cell_len(rows[0]) == cell_len(text.splitlines()[0])  # columns hold
        elif encoding == "ascii":
            assert r"\u6f22\u5b57" in text


def printed(monkeypatch: pytest.MonkeyPatch, width: int, show: Callable[[], None]) -> list[str]:
    """Lines that a terminal of a width gets."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")  # rich takes a dumb one for 80 columns wide
    monkeypatch.setattr(sys, "stdout", stream)
    show()
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()


NAMES = ("x" * 90, "漢字の長い名前" * 8, "שלום" * 12, "short", "[red]no markup[/red] :smile:")


@pytest.mark.parametrize("width", [40, 61, 100])
def test_a_table_cuts_no_name(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    rows = [[name, "83.10 ± 0.90", "1.00"] for name in NAMES]
    headers = ["[b]method[/b]", "accuracy %", "s"]
    lines = printed(monkeypatch, width, lambda: output.print_table(headers, rows, numbers=(1, 2)))
    assert max(map(cell_len, lines)) <= width
    letters = "".join(lines).replace(" ", "")
    for name in NAMES:
        assert all(letters.count(letter) >= name.count(letter) for letter in name.replace(" ", ""))
    for literal in ("[b]method[/b]", "[red]", ":smile:"):
        assert literal in letters


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_names_and_numbers_are_not_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    names = ["whu-rs19/ViT-B-32.openai", "whu-rs19/ViT-B-32.laion2b_s34b_b79k"]
    rows = [[name, "1,281,167", "a sentence of some words " * 3, "2026-01-31T12"] for name in names]
    headers = ["cache", "images", "what it is", "made"]
    lines = printed(monkeypatch, width, lambda: output.print_table(headers, rows, numbers=(1,)))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for word in (*names, *headers[:2], "1,281,167", "2026-01-31T12"):
        assert word in text


@pytest.mark.parametrize("width", [30, 80])
def test_a_wide_map_is_printed_in_parts(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    rows = [
        {
            "shots": 1,
            "ratio": ratio / 7,
            "bottleneck": f"D/{2**place}",
            "lr": 0.1,
            "val": 10 + place,
        }
        for ratio in (1, 2)
        for place in range(14)
    ]
    lines = printed(monkeypatch, width, lambda: print_heatmaps(rows, "cv"))
    assert max(map(cell_len, lines)) <= width
    words = " ".join(lines).replace("*", "").split()
    for place in range(14):
        assert words.count(f"D/{2**place}") == 1
        assert words.count(f"{10 + place}.00") == 2
    assert "0.285714" in words


def test_predictions_cut_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: Any = SimpleNamespace(class_names=NAMES, has_scores=False)
    write = FORMATS["table"](saved, 2)

    def score(label: str) -> Any:
        return SimpleNamespace(label=label, probability=0.5, score=None)

    def show() -> None:
        for name in NAMES:
            top = (score(name), score("漢字"))
            write(SimpleNamespace(image="a.png", label=name, top=top, zero_shot=None, nearest=()))  # type: ignore[arg-type]

    lines = printed(monkeypatch, 80, show)
    letters = "".join(lines).replace(" ", "")
    for name in NAMES:
        assert all(letters.count(letter) >= name.count(letter) for letter in name.replace(" ", ""))
    images = [line for line in lines if line.endswith("a.png")]
    assert len(images) == len(NAMES)
    assert len({cell_len(line) for line in images}) == 1  # in columns, whatever the letters


CLOSED = [
    ("datasets | true; exit ${PIPESTATUS[0]}", 141, ""),
    ("datasets 2>&1 >&- | true; exit ${PIPESTATUS[0]}", 1, ""),
    ("fit no/such.cache 2>&1 | true; exit ${PIPESTATUS[0]}", 1, ""),
    ("cache ls >&-", 1, "cannot write to standard output (Bad file descriptor)"),
    ("cache ls <&- >&-", 1, "cannot write to standard output"),
    ("--help >&-", 1, "cannot write to standard output"),
    ("cache ls 2>&-", 0, ""),
    ("fit no/such.cache <&- >&- 2>&-", 1, ""),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("words", "code", "text"), CLOSED)
def test_streams_that_are_closed(tmp_path: Path, words: str, code: int, text: str) -> None:
    command = f"{sys.executable} -m cafe_cli {words}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if text else 0)
    assert text in done.stderr


def test_a_result_that_cannot_be_printed_is_saved(
    cafe: Cafe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    path = make_cache(tmp_path / "m.t.h5")
    monkeypatch.setattr(sys, "argv", ["cafe", "fit", str(path), "--shots", "1", "--seeds", "1"])
    with full.open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 1
    assert "cannot write to standard output (No space left on device)" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 1


SIGNALS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]
# where each command is when the signal comes, and what its line says
STOPS = {
    "fit {cache} --shots 1": ("cafe.study.fit.run_study", "nothing was saved"),
    "grid {cache}": ("cafe.study.grid.run.search", "finished runs are kept"),
    "extract --dataset digits --model nano": (
        "cafe.extract.extractor.load_encoder",
        "finished work is kept",
    ),
    "cache import {npz} a/b.c": ("cafe.store.write._write_header", "whole or not at all"),
    "predict {head} x.png": ("cafe.inference.head_encoders.load_recorded_encoder", "is complete"),
    "export {head}": ("cafe.inference.export.load_head", "whole or not at all"),
    "cache merge a/b.c {cache} {cache}": ("cafe.store.merge._shared_ids", "whole or not at all"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache, its export and a head of it."""
    folder = tmp_path_factory.mktemp("made")
    cache = make_cache(folder / "m.t.h5")
    done = CliRunner().invoke(
        app, ["fit", str(cache), "--shots", "1", "--seeds", "1", "--runs", str(folder / "runs")]
    )
    assert done.exit_code == 0
    CliRunner().invoke(app, ["cache", "export", str(cache), str(folder / "x.npz")])
    head = next(folder.rglob("clip-adapter*.safetensors"))
    return {"cache": str(cache), "npz": str(folder / "x.npz"), "head": str(head)}


@pytest.mark.parametrize(("name", "code"), SIGNALS)
@pytest.mark.parametrize("command", STOPS)
def test_every_signal_ends_a_command_as_ctrl_c_does(
    cafe: Cafe,
    made: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    code: int,
    command: str,
) -> None:
    place, kept = STOPS[command]
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"no {name} here")

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(place, stop)
    before = signal.signal(number, signal.default_int_handler)  # it may be ignored where tests run
    try:
        found, out, err = cafe(*command.format(**made).split())
        assert signal.getsignal(number) is signal.default_int_handler  # put back
    finally:
        signal.signal(number, before)
    lines = [line for line in err.splitlines() if line.startswith("cafe: ")]
    assert (found, out, len(lines)) == (code, "", 1), err
    assert ("interrupted" if name == "SIGINT" else f"stopped by {name}") in lines[0]
    assert kept in lines[0]
    assert not list(tmp_path.rglob("*.writing"))
    assert not list(tmp_path.rglob("*.h5"))


def test_a_signal_that_is_to_be_ignored_stays_ignored() -> None:
    """`nohup cafe grid &`."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A cache that another process has open for writing, as a notebook has."""
    path = make_cache(tmp_path / "cache" / "held" / "m.t.h5")
    script = (
        "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    yield path
    holder.communicate()


def test_a_cache_that_is_open_elsewhere_is_not_called_damaged(cafe: Cafe, held: Path) -> None:
    for words in (["fit", held], ["cache", "verify", held], ["cache", "show"], ["cache", "ls"]):
        code, out, err = cafe(*words)
        assert (code, out) == (0 if words[-1] == "ls" else 1, "")
        assert "is open for writing in another program" in err
        assert "close it there" in err
        assert "damaged" not in err


def test_a_cache_that_was_never_closed(cafe: Cafe, tmp_path: Path) -> None:
    path = make_cache(tmp_path / "m.t.h5")
    script = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'r+'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    _, _, err = cafe("cache", "show", path)
    assert "h5clear -s" in err
    assert "damaged" not in err


@pytest.mark.parametrize("number", [37, 38, 95])  # ENOLCK, ENOSYS, EOPNOTSUPP of Linux
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = make_cache(tmp_path / "m.t.h5")
    opened = h5py.File

    def without_locks(*words: Any, locking: bool, **more: Any) -> h5py.File:
        if locking:
            raise OSError(number, "Unable to open file (unable to lock file, errno = ...)")
        return opened(*words, locking=False, **more)

    monkeypatch.setattr("cafe.store.open_file.h5py.File", without_locks)
    assert FeatureCache.open(path).counts["train"] == 24


def test_a_cache_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_cache(tmp_path / "m.t.h5")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Unable to open file (unable to open file: name = ...)")

    monkeypatch.setattr("cafe.store.open_file.h5py.File", refuse)
    with pytest.raises(CafeError, match=r"cannot open the cache .* \(Permission denied\)"):
        FeatureCache.open(path)


def test_nothing_is_fitted_for_a_folder_that_cannot_be_written(
    cafe: Cafe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_cache(tmp_path / "m.t.h5")
    (tmp_path / "file").touch()
    for module, name in (
        ("fit", "run_study"),
        ("compare_one", "run_study"),
        ("meta_train", "train_meta"),
    ):
        monkeypatch.setattr(f"cafe.study.{module}.{name}", None)  # called, it would be a traceback
    for words in (
        ["fit", path, "--runs", "file/runs"],
        ["compare", path, "--runs", "file"],
        ["grid", path, "--shots", "1", "--runs", "file/runs"],
    ):
        code, _, err = cafe(*words)
        assert code == 1
        assert "choose another" in err


def test_what_the_system_refuses_is_one_line(cafe: Cafe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", f"shut {ESCAPES}")

    monkeypatch.setattr("cafe.store.paths.find_caches", refuse)
    code, out, err = cafe("cache", "show")
    assert (code, out) == (1, "")
    assert err == "cafe: shut \\x1b[31mred\\x1b]0;title\\x07: Permission denied.\n"
