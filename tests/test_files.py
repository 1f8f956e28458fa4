"""One way to write a file: whole or not at all, one writer at a time, left-overs known by lock."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cafe.errors import BusyError
from cafe.store.files import (
    append_lines,
    left_overs,
    lock_file,
    locks,
    move,
    remove_left_overs,
    temporary_folder,
    write_file,
    write_folder,
    write_text,
)

FORK = multiprocessing.get_context("fork")
SIZE = 1 << 18


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with write_file(target) as stream:
        stream.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    write_text(target, "é")
    assert target.read_text(encoding="utf-8") == "é"
    assert names(tmp_path) == ["a.bin"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.bin"
    write_text(target, "old")

    def write() -> None:
        with write_file(target) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_appears_when_it_is_whole_under_a_free_name(tmp_path: Path) -> None:
    target = tmp_path / "run"

    def fill(folder: Path) -> None:
        (folder / "a").write_text("1")
        assert not target.exists() or names(target) == ["a"]

    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError

    assert write_folder(target, fill) == target
    assert write_folder(target, fill) == tmp_path / "run-2"
    with pytest.raises(ValueError, match=r"^$"):
        write_folder(target, fail)
    assert write_folder(target, fill) == tmp_path / "run-3"
    assert names(tmp_path) == ["run", "run-2", "run-3"]


def _write_often(target: Path, letter: bytes) -> None:
    for _ in range(30):
        with write_file(target) as stream:
            for _ in range(4):
                stream.write(letter * (SIZE // 4))


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    writers = [FORK.Process(target=_write_often, args=(target, x)) for x in (b"a", b"b")]
    for writer in writers:
        writer.start()
    contents = set()
    while any(writer.is_alive() for writer in writers):
        if target.exists():
            contents.add(target.read_bytes())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert contents <= {b"a" * SIZE, b"b" * SIZE}
    assert names(tmp_path) == ["a.bin"]


def _take_names(target: Path) -> None:
    for _ in range(20):
        write_folder(target, lambda folder: (folder / "a").write_text("whole") and None)


def test_two_writers_of_one_folder_take_two_names(tmp_path: Path) -> None:
    writers = [FORK.Process(target=_take_names, args=(tmp_path / "run",)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(names(tmp_path)) == 40
    assert {path.read_text() for path in tmp_path.glob("run*/a")} == {"whole"}


def _write_and_wait(folder: Path) -> None:
    with lock_file(folder / "a.bin"), write_file(folder / "a.bin") as stream:
        stream.write(b"half")
        (folder / "ready").touch()
        time.sleep(60)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that is in the middle of writing `a.bin`."""
    process = FORK.Process(target=_write_and_wait, args=(tmp_path,))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def kill(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_left_overs_are_known_by_their_lock(
    tmp_path: Path, writer: multiprocessing.process.BaseProcess
) -> None:
    assert remove_left_overs(tmp_path) == 0, "its writer lives"
    kill(writer)
    assert len(list(tmp_path.glob(".*.writing"))) == 1
    assert remove_left_overs(tmp_path) == 1
    assert names(tmp_path) == [".a.bin.lock", "ready"]
    with lock_file(tmp_path / "a.bin"):
        pass
    assert names(tmp_path) == ["ready"]


def test_one_process_at_a_time_holds_a_lock(
    tmp_path: Path, writer: multiprocessing.process.BaseProcess
) -> None:
    said = r"another process is writing '.*a\.bin'; wait for it"
    with pytest.raises(BusyError, match=said), lock_file(tmp_path / "a.bin"):
        pytest.fail("both hold it")
    with lock_file(tmp_path / "b.bin"):
        pass
    kill(writer)
    with lock_file(tmp_path / "a.bin"):
        pass


def test_without_locks_files_are_still_whole_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_try_lock", lambda descriptor: None)
    target = tmp_path / "a.bin"
    with lock_file(target), lock_file(target), write_file(target) as first:
        first.write(b"first")
        with write_file(target) as second:
            second.write(b"2nd")
        assert target.read_bytes() == b"2nd"
        assert remove_left_overs(tmp_path) == 0
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["a.bin"]


def test_a_library_that_wants_a_path_has_one(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "a.bin").write_bytes(b"made")
        move(folder / "a.bin", tmp_path / "a.bin")
    assert names(tmp_path) == ["a.bin"]


def test_a_lock_that_is_made_again_during_the_removal_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that looks for left-overs opens the lock file, which makes it."""
    rmdir, times = os.rmdir, []

    def late(path: Path, dir_fd: int | None = None) -> None:
        if not times:
            times.append(1)
            (next(tmp_path.glob(".cafe-*")) / "lock").touch()
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", late)
    with temporary_folder(tmp_path):
        pass
    assert times
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_written_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "a.txt"
    link.symlink_to("far/b.txt")
    with lock_file(link), pytest.raises(BusyError), lock_file(tmp_path / "far" / "b.txt"):
        pass
    for text in ("made", "replaced"):
        write_text(link, text)
        assert (tmp_path / "far" / "b.txt").read_text() == text
    assert link.is_symlink()
    assert names(tmp_path / "far") == ["b.txt"]


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link", "folder/.."):
        with pytest.raises(OSError, match=r"it is (no file|a folder)"):
            write_text(tmp_path / name, "text")
    assert names(tmp_path) == ["folder", "link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_that_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".cafe-0123456789abcdef.writing").mkdir()
    with lock_file(tmp_path / "a.bin"):
        write_text(tmp_path / "a.bin", "text")
    assert (tmp_path / "a.bin").read_text() == "text"
    assert left_overs(tmp_path) == []
    assert remove_left_overs(tmp_path) == 0


def test_folders_that_were_made_in_vain_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.bin"
    with pytest.raises(ValueError, match="no"), lock_file(target):
        raise ValueError("no")
    assert names(tmp_path) == []
    with lock_file(target):
        write_text(target, "text")
    assert target.read_text() == "text"
    (tmp_path / "mine").mkdir()
    with lock_file(tmp_path / "mine" / "a.bin"):
        pass
    assert names(tmp_path) == ["mine", "new"], "it was there before"


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    append_lines(path, ["one", "two"])
    with path.open("ab") as stream:
        stream.write(b"thr")  # a writer was killed here
    append_lines(path, ["three"])
    append_lines(path, [])
    assert path.read_text() == "one\ntwo\nthr\nthree\n"
