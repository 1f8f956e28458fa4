"""Runs `cafe` in forked processes that may be killed, starved of disk, or deprived of rights.

A server process loads all that commands need, once, and forks a process per command: hundreds of
commands take seconds. A process is killed at its n-th change of a file, as `sys.addaudithook` sees
them: whatever is opened to write, made, renamed, synced or removed below its working directory.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LONG = bool(os.environ.get("CAFE_LONG_FAULTS"))
"""Whether every fault is tried, not a sample."""

KILLED = -9


class Answer(NamedTuple):
    """What a command left behind; the code is -9 where it was killed."""

    code: int
    out: str
    err: str


class Cafe:
    """Commands in processes of their own.

    Parameters
    ----------
    process : subprocess.Popen
        The server.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, words: list[str], work: Path, **faults: Any) -> int:
        """Start a command in a folder; returns its process.

        Faults: `kill_at`, the number of a change of a file; `limit`, bytes of a file; `rights`,
        whether root has more of them than others; `locks`, whether the file system has locks;
        `stdout` and `stderr`, files to write to, or "closed", or "gone", a pipe without a reader.
        """
        return int(self._ask({"words": words, "work": str(work), **faults}))

    def count_changes(self, words: list[str], work: Path) -> int:
        """How many changes of files a command makes."""
        answer = self.run(words, work, kill_at=10**9)
        assert answer.code == 0, answer.err
        return int(answer.err.splitlines()[-1])

    def end(self, process: int) -> Answer:
        """Wait for a command."""
        return Answer(*self._ask(process))

    def run(self, words: list[str], work: Path, **faults: Any) -> Answer:
        """Run a command to its end."""
        return self.end(self.start(words, work, **faults))


@contextmanager
def serve() -> Iterator[Cafe]:
    """Start the server."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in ("CAFE_CACHE", "CAFE_DATA"):
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield Cafe(process)
        process.kill()


# ---- the server, from here on


def _load() -> None:
    import importlib
    import warnings

    warnings.simplefilter("ignore")
    for name in (
        "cafe_cli.main",
        "cafe.extract.extractor",
        "cafe.extract.importers",
        "cafe.inference.export",
        "cafe.inference.predictor",
        "cafe.inference.train",
        "cafe.report",
        "cafe.store.conversion",
        "cafe.store.removal",
        "cafe.study.compare",
        "cafe.study.fit",
        "cafe.study.grid.run",
        "cafe.study.meta_train",
        "faiss",
        "h5py",
        "pandas" if importlib.util.find_spec("pandas") else "numpy",
        "safetensors.torch",
        "sklearn.linear_model",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)  # a forked process must not meet another thread's locks
    from cafe.encoders.encoder import load_encoder

    load_encoder("nano", device="cpu", precision="fp32")


_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _kill_at(number: int, work: str) -> Callable[[], int]:
    """Arrange that this process is killed before its n-th change of a file below a folder.

    Returns a function that tells how many there were.
    """
    count = 0
    sync = os.fsync

    def change() -> None:
        nonlocal count
        count += 1
        if count >= number:
            os.kill(os.getpid(), 9)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        is_path = isinstance(path, str | os.PathLike)
        if is_path and os.path.abspath(path).startswith(work):  # noqa: PTH100
            change()

    def counted_sync(descriptor: int) -> None:
        change()  # what was written so far may not be on disk
        sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = counted_sync
    return lambda: count


def _drop_rights() -> None:
    """Take from root what others do not have: to write where the permissions say no."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _drop_locks() -> None:
    """Answer every request for a lock as some network folders do."""
    import fcntl

    import h5py

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def open_file(name: Any, *arguments: Any, locking: Any = None, **more: Any) -> Any:
        if locking is not False and not hasattr(name, "write"):
            raise OSError("Unable to synchronously open file (unable to lock file, errno = 37)")
        return original(name, *arguments, locking=locking, **more)

    original, h5py.File = h5py.File, open_file
    fcntl.flock = flock  # type: ignore[assignment]


def _set_stream(number: int, name: str, pipe: int, fault: str | None) -> None:
    """Make a standard stream as an interpreter finds it that was started so."""
    os.dup2(pipe, number)
    os.close(pipe)
    if fault == "gone":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
    elif fault not in (None, "closed"):
        os.dup2(os.open(str(fault), os.O_WRONLY), number)
    stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if fault == "closed":
        os.close(number)
    setattr(sys, name, None if fault == "closed" else stream)
    setattr(sys, f"__{name}__", getattr(sys, name))


def _run(request: dict[str, Any], out: int, err: int) -> int:
    import resource

    from cafe_cli.main import main

    os.chdir(request["work"])
    _set_stream(1, "stdout", out, request.get("stdout"))
    _set_stream(2, "stderr", err, request.get("stderr"))
    sys.argv = ["cafe", *request["words"]]
    if "limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
    if not request.get("rights", True) and os.geteuid() == 0:
        _drop_rights()
    if not request.get("locks", True):
        _drop_locks()
    count = _kill_at(request["kill_at"], request["work"]) if "kill_at" in request else None
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    if count is not None:
        sys.stderr.write(f"{count()}\n")
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as the interpreter ends
    return code


def _start(request: dict[str, Any]) -> tuple[int, list[int]]:
    pipes = [os.pipe(), os.pipe()]
    process = os.fork()
    if not process:
        try:
            os._exit(_run(request, *(write for _, write in pipes)))
        finally:
            os._exit(99)
    for _, write in pipes:
        os.close(write)
    return process, [read for read, _ in pipes]


def _end(process: int, pipes: list[int]) -> Answer:
    texts = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as stream:
            texts.append(stream.read().decode(errors="replace"))
    return Answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), texts[0], texts[1])


def _main() -> None:
    _load()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    running: dict[int, list[int]] = {}
    while line := sys.stdin.readline():
        request = json.loads(line)
        if isinstance(request, int):
            answer: Any = _end(request, running.pop(request))
        else:
            answer, running_pipes = _start(request)
            running[answer] = running_pipes
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _main()
