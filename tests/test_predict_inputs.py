"""What `cafe predict` takes: globs, paths on stdin, URLs of a server on this machine."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from digits_run import Answer, call, digits_run

from cafe.datasets import open_url
from cafe.errors import ImageError

Run = Callable[..., Answer]


@pytest.fixture
def run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Predicts with the run of the digits, in a folder with three photos."""
    work = digits_run(tmp_path_factory)
    for name in ("a.png", "deep/er/b.png", "c[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / "photos/three.png", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    head = work / "runs/mine/clip-adapter.4shot.seed0.safetensors"
    return lambda *words: call(monkeypatch, capsys, "predict", head, *words)


def images(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)
    assert {row["label"] for row in rows} == {"three"}
    return [row["image"] for row in rows]


def test_globs(run: Run) -> None:
    assert images(run("*.png", "--json")) == ["a.png", "c[1].png"]
    assert images(run("**/*.png", "--json")) == ["a.png", "c[1].png", "deep/er/b.png"]
    assert images(run("c[1].png", "--json")) == ["c[1].png"]  # a file that is called so
    assert images(run(Path.cwd() / "[a-b].png", "--json")) == [f"{Path.cwd()}/a.png"]
    assert images(run("d*", "--json")) == ["deep/er/b.png"]  # a folder
    answer = run("*.jpg", "--json")
    assert answer == (
        1,
        "",
        "cafe: no file is named like '*.jpg'; 'DIR/**/*.jpg' looks into all folders.\n",
    )


@pytest.mark.parametrize(
    "given", [b"a.png\n\ndeep\n", b"a.png\r\ndeep/er/b.png", b"a.png\0deep/er/b.png\0"]
)
def test_paths_on_stdin(run: Run, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert images(run("-", "c[1].png", "--json")) == ["a.png", "deep/er/b.png", "c[1].png"]


def test_odd_names_on_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"two\nlines.png", b"caf\xe9 *.png"):
        shutil.copyfile("a.png", os.fsdecode(name))
    given = io.BytesIO(b"two\nlines.png\0caf\xe9 *.png\0")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    assert images(run("-", "--json")) == ["two\nlines.png", "caf\\xe9 *.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    answer = run("-")
    assert (answer.code, len(answer.err.splitlines())) == (1, 1)
    assert "no image is there" in answer.err


def test_json_holds_what_cannot_be_read(run: Run) -> None:
    answer = run("a.png", "gone.png", "--json")
    good, bad = json.loads(answer.out)
    assert (good["image"], bad["image"], bad["label"]) == ("a.png", "gone.png", None)
    assert bad["reason"] == "there is no such file"
    assert "1 of 2 images could not be read" in answer.err
    assert run("gone.png", "--json")[:2] == (1, "")
    assert run("gone.png").err.splitlines()[-1] == "cafe: gone.png: there is no such file."
    answer = run("a.png", "--json", "--format", "csv")
    assert answer == (2, "", "cafe: --json and --format csv are two formats; give one.\n")
    (line,) = run("a.png", "--format", "jsonl").out.splitlines()
    assert json.loads(line) == good


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves a photo, and what else a URL may lead to."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/").split("?")[0]
        photo = Path("a.png").read_bytes()
        if name in ("to-file", "to-ftp", "moved", "round"):
            self.send_response(302)
            where = {"to-file": "file:///etc/passwd", "to-ftp": "ftp://127.0.0.1/a.png"}
            self.send_header("Location", where.get(name, "/round" if name == "round" else "/a.png"))
            self.end_headers()
        elif name in ("a.png", "%C3%BC.png"):
            self.answer(photo)
        elif name == "page":
            self.answer(b"<html>Please log in</html>")
        elif name == "empty":
            self.answer(b"")
        elif name == "short":
            self.answer(photo[:40], len(photo))
        elif name == "large":
            self.answer(b"\x89PNG\r\n\x1a\n" + bytes(4000), None)
        elif name == "drip":
            self.answer(b"", 100)
            self.server.stop.wait(20)  # type: ignore[attr-defined]
        else:
            self.send_error(403, "Forbidden")

    def answer(self, content: bytes, length: int | None = -1) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(len(content) if length < 0 else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def host(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.stop = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.stop.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_urls(run: Run, host: str) -> None:
    urls = [f"{host}/{name}" for name in ("a.png", "moved", "a.png?size=*&x=[1]", "ü.png")]
    assert images(run(*urls, "a.png", "--json")) == [*urls, "a.png"]
    assert images(run(host.replace("http", "HTTP") + "/a.png", "--json"))


REFUSED = {
    "page": "cannot identify an image in it",
    "empty": "the file is empty",
    "gone.png": "its host answers 403 Forbidden",
    "to-file": "its host answers 302",
    "to-ftp": "it cannot be fetched (unknown url type: ftp)",
    "round": "its host answers 302",
    "short": "bytes did not come",
    "large": "it has more than the 2,000 bytes that cafe fetches",
    "drip": "it did not come within 0.5 seconds",
}


@pytest.mark.parametrize("name", REFUSED)
def test_urls_that_are_refused(
    run: Run, host: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(open_url, "MOST_BYTES", 2000)
    if name == "drip":
        monkeypatch.setattr(open_url, "MOST_SECONDS", 0.5)
    answer = run(f"{host}/{name}")
    assert (answer.code, answer.out) == (1, "")
    (line,) = (line for line in answer.err.splitlines() if "calibrated" not in line)
    assert line.startswith(f"cafe: {host}/{name}: ")
    assert REFUSED[name] in line


def test_hosts_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ImageError, match=r"does not answer as HTTP does|cannot be fetched"):
            open_url.open_url(f"http://127.0.0.1:{port}/a.png")
        thread.join()
    for url in (f"http://127.0.0.1:{port}/", "http://", "http://[", "http://a:b/", "https://x y/"):
        with pytest.raises(ImageError, match=r"^it(s host| cannot be fetched \()") as caught:
            open_url.open_url(url)
        assert "\n" not in str(caught.value)


def test_no_other_scheme_is_a_url() -> None:
    for name in (
        "ftp://x/a.png",
        "file:///etc/passwd",
        "http:/x",
        "photos/a.png",
        Path("http://x"),
    ):
        assert not open_url.is_url(name)


def test_a_name_that_no_file_can_have_costs_itself_alone(run: Run) -> None:
    Path("loop.png").symlink_to("loop.png")
    os.mkfifo("pipe.png")
    answer = run("a.png", "x" * 5000 + ".png", "loop.png", "pipe.png", "/dev/zero", ".", "--json")
    assert (answer.code, answer.err.count("skipped ")) == (0, 5), answer.err
    assert sum(bool(row["label"]) for row in json.loads(answer.out)) == 4
