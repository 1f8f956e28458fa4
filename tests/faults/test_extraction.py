"""Runs that are killed, stopped, or out of disk: nothing wrong is left, and the next one goes on.

A process loads the encoder once and forks one extraction after another, so that killing is cheap.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import make_dataset

from cafe.encoders.encoder import load_encoder
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import extract
from cafe.store import FeatureCache, verify_cache

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SIZES = {"train": 150, "test": 30}
WORDS = (("a disc.",), ("a square.",))
BATCH = 2  # so blocks are of 16 images
SCRIPT = """
    import json, os, resource, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)  # a forked process must not meet another thread's locks
    from making import make_dataset
    from cafe.encoders.encoder import load_encoder
    from cafe.errors import CafeError
    from cafe.extract.blocks import ExtractOptions
    from cafe.extract.extract import extract

    # a shell ignores Ctrl-C in what it runs in the background, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root, folder, sizes, batch = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    dataset = make_dataset(root, json.loads(sizes))
    encoder = load_encoder(folder, device="cpu", precision="fp32")

    def work(path, limit, pause, stop):
        batches = 0

        def progress(*_):
            nonlocal batches
            batches += 1
            time.sleep(60 if batches == stop else pause)

        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        options = ExtractOptions(batch_size=batch, workers=2, progress=progress)
        try:
            words = (("a disc.",), ("a square.",))
            done = extract(dataset, encoder, Path(path), sentences=words, options=options)
            return f"done {done.images}"
        except (CafeError, KeyboardInterrupt) as error:
            return f"{type(error).__name__} {error}"

    while line := sys.stdin.readline():
        path, limit, pause, stop = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, work(path, limit, pause, stop).encode())
            os._exit(0)
        os.close(write)
        print(child, flush=True)
        sys.stdin.readline()  # until then the child's number stays taken
        status = os.waitpid(child, 0)[1]
        answer = os.read(read, 10_000).decode()
        os.close(read)
        print(json.dumps([os.waitstatus_to_exitcode(status), answer]), flush=True)
"""


class Forks:
    """Extractions in processes of their own, one at a time."""

    def __init__(self, root: Path, folder: Path) -> None:
        import json

        self._json = json
        script = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
        self.process = subprocess.Popen(
            [*script, str(root), str(folder), json.dumps(SIZES), str(BATCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
            },
        )

    def start(self, path: Path, limit: int = 0, pause: float = 0.0, stop: int = 0) -> int:
        """Start an extraction, which waits to be killed after `stop` batches; returns its id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = self._json.dumps([str(path), limit, pause, stop])
        print(words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def end(self) -> tuple[int, str]:
        """Exit code and answer of the extraction that is under way."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        code, answer = self._json.loads(self.process.stdout.readline())
        return code, answer


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("images"), tiny_folder)
    yield forks
    forks.process.kill()
    forks.process.communicate()


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "tiny.local.h5"
    forks.start(path)
    assert forks.end() == (0, "done 180")
    return FeatureCache.open(path).content_sha256


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tiny.local.h5"


def blocks(path: Path) -> int:
    return len(list(path.parent.glob(".*.partial/*.npz")))


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_at_random_points_again_and_again(
    forks: Forks, whole: str, path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - not cryptography
    kills = 0
    while not path.exists() and kills < 40:
        before = blocks(path)
        # of 90 batches: also on a fast machine the first two runs are killed before their end
        child = forks.start(path, pause=0.004, stop=chance.randint(1, 40))
        time.sleep(chance.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        code, _ = forks.end()
        kills += code == -signal.SIGKILL
        assert blocks(path) >= before or path.exists()  # what was finished stays finished
    forks.start(path)
    code, answer = forks.end()
    assert code == 0, answer
    assert kills >= 2
    assert FeatureCache.open(path).content_sha256 == whole
    assert [file.name for file in path.parent.iterdir()] == ["tiny.local.h5"]


def test_a_killed_run_loses_one_block_at_most(forks: Forks, path: Path) -> None:
    child = forks.start(path, pause=0.02)
    while blocks(path) < 3:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    forks.end()
    finished = blocks(path)
    assert finished < 12
    forks.start(path)
    assert forks.end() == (0, f"done {180 - 16 * finished}")


def test_ctrl_c_keeps_finished_work(forks: Forks, whole: str, path: Path) -> None:
    child = forks.start(path, pause=0.02)
    while blocks(path) < 2:
        time.sleep(0.001)
    os.kill(child, signal.SIGINT)
    code, answer = forks.end()
    assert (code, answer.split()[0]) == (0, "KeyboardInterrupt")
    assert blocks(path) >= 2
    assert not path.exists()
    forks.start(path)
    assert forks.end()[0] == 0
    assert FeatureCache.open(path).content_sha256 == whole


def file_sizes(forks: Forks, path: Path) -> tuple[int, int]:
    """Sizes of a finished block and of the finished file."""
    child = forks.start(path, pause=0.02)
    while not blocks(path):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    forks.end()
    block = next(path.parent.glob(".*.partial/*.npz")).stat().st_size
    forks.start(path)
    forks.end()
    size = path.stat().st_size
    path.unlink()
    return block, size


def test_a_full_disk(forks: Forks, whole: str, path: Path) -> None:
    block, size = file_sizes(forks, path)
    for limit in (100, block - 100):  # no room for the first block
        forks.start(path, limit)
        code, answer = forks.end()
        assert code == 0
        assert answer.startswith("CacheError cannot ")
        assert blocks(path) == 0
    for limit in (block + 1000, size // 2, size - 1):  # room for the blocks, none for the file
        forks.start(path, limit)
        code, answer = forks.end()
        assert code == 0, "writing on a full disk must not crash"
        assert answer.startswith(f"CacheError cannot write the cache '{path}'"), answer
        assert [file.name for file in path.parent.iterdir()] == [".tiny.local.h5.partial"]
        assert blocks(path) == 12
    forks.start(path)
    assert forks.end() == (0, "done 0")
    assert FeatureCache.open(path).content_sha256 == whole
    assert verify_cache(path).problems == ()


def test_the_limit_that_plays_the_full_disk_is_the_childs_alone() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_two_at_once(forks: Forks, path: Path, tiny_folder: Path, tmp_path: Path) -> None:
    child = forks.start(path, pause=0.05)
    while not blocks(path):
        time.sleep(0.001)
    dataset = make_dataset(tmp_path / "again", {"train": 2})
    encoder = load_encoder(str(tiny_folder), device="cpu", precision="fp32")
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"another process is writing .*; wait for it"):
        extract(dataset, encoder, path, sentences=WORDS, options=ExtractOptions())
    assert time.perf_counter() - start < 5
    os.kill(child, signal.SIGKILL)  # whose lock goes with it
    forks.end()
    assert extract(dataset, encoder, path, sentences=WORDS, options=ExtractOptions()).images == 2
