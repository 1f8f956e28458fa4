"""Mutated cache files: the reader raises CafeError or returns the right data, nothing else.

The mutations run in processes of their own, so that a crash or a hang of HDF5 fails a test instead
of ending it. `python tests/test_fuzz.py FIRST COUNT FILE` runs more of them.
"""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cafe.errors import CafeError
from cafe.store import FeatureCache, write_cache

CASES = 600
MEMORY = 2 << 30


def mutate(data: bytes, seed: int) -> bytes:
    """One to three changes: flipped bits, overwritten, moved, cut or repeated ranges."""
    chance = random.Random(seed)  # noqa: S311 - not cryptography
    mutated = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(mutated))
        size = min(chance.choice((1, 2, 4, 8, 64, 1024)), len(mutated) - at)
        other = chance.randrange(max(1, len(mutated) - size))
        match chance.randrange(7):
            case 0 | 1:
                mutated[at] ^= 1 << chance.randrange(8)
            case 2:
                mutated[at : at + size] = bytes([chance.choice((0, 1, 127, 128, 255))]) * size
            case 3:
                mutated[at : at + size] = chance.randbytes(size)
            case 4:
                mutated[at : at + size] = mutated[other : other + size]
            case 5:
                del mutated[at : at + size]
            case _:
                del mutated[max(at, 1) :]
    return bytes(mutated)


def everything(path: Path) -> list[object]:
    """All that can be read of a cache, as bytes and text."""
    cache = FeatureCache.open(path)
    header = vars(cache.header).copy()
    found: list[object] = [header.pop("text_features").tobytes(), header, dict(cache.counts)]
    for split in cache.counts:
        read = cache.read(split)
        views = None if read.views is None else read.views.tobytes()
        maps = cache.read_spatial_maps(split).tobytes() if cache.spatial_size else b""
        found += [cache.ids(split), read.labels.tobytes(), read.features.tobytes(), views, maps]
    return found


def run(first: int, count: int, original: Path) -> None:
    """Read mutated copies; say which were read, and stop at the first wrong one."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    data, right = original.read_bytes(), everything(original)
    copy = original.with_name(f"{first}.h5")
    refused = 0
    for seed in range(first, first + count):
        copy.write_bytes(mutate(data, seed))
        print(seed, flush=True)  # noqa: T201 - tells which one crashed
        try:
            found = everything(copy)
        except CafeError:
            refused += 1
            continue
        if found != right:
            raise SystemExit(f"seed {seed} was read and is wrong")
    print(f"refused {refused} of {count}")  # noqa: T201


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_mutated_files_are_refused_or_read_right(noise_cache: Path, tmp_path: Path) -> None:
    from making import make_block, make_header  # not on the path of a worker

    half = CASES // 2
    maps = np.random.default_rng(0).standard_normal((20, 4, 8)).astype(np.float16)
    block = replace(make_block(20), spatial=maps)
    write_cache(tmp_path / "maps.h5", make_header(), {"train": [block]})
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(first), str(half), str(original)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first, original in ((0, noise_cache), (half, tmp_path / "maps.h5"))
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0, output[-2000:]
        refused = int(output.split("refused ")[1].split()[0])
        assert refused > half // 2


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
