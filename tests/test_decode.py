"""Decoding ahead, in order; what cannot be read is recorded or stops the run."""

import threading
import time

import numpy as np
import pytest

from cafe.datasets.dataset import Dataset, Item
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.errors import DatasetError
from cafe.extract.decode import _Room, decode_item, map_ahead


def test_views_come_in_the_encoders_form(dataset: Dataset, tiny: Encoder) -> None:
    for item in dataset.splits["train"][:3]:
        image = decode_item(dataset, item, tiny.preprocess, Augmentation(4))
        assert image.views is not None
        assert image.views.shape == (4, 32, 32, 3)
        assert image.views.dtype == np.uint8


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"no image" * 99])
def test_a_broken_image_is_told_with_its_reason(
    dataset: Dataset, tiny: Encoder, content: bytes
) -> None:
    item = dataset.splits["train"][0]
    assert dataset.root is not None
    (dataset.root / item.id).write_bytes(content)
    image = decode_item(dataset, item, tiny.preprocess)
    assert image.views is None
    assert image.reason
    assert str(dataset.root) not in image.reason
    with pytest.raises(
        DatasetError, match=r"'train/0\.png' of 'shapes' cannot be read .*on_error="
    ):
        decode_item(dataset, item, tiny.preprocess, strict=True)


def test_a_vanished_image_stops_the_run(dataset: Dataset, tiny: Encoder) -> None:
    with pytest.raises(DatasetError, match=r"'gone\.png' .*is gone; bring it back .*is kept"):
        decode_item(dataset, Item("gone.png", 0, 3), tiny.preprocess)


def test_results_come_in_order_and_not_too_far_ahead() -> None:
    running: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    for taken, result in enumerate(map_ahead(work, iter(range(30)), threads=3)):
        assert result == taken * taken
        assert len(running) <= taken + 1 + 3 + 1
    assert sorted(running) == list(range(30))


def test_work_runs_side_by_side() -> None:
    barrier = threading.Barrier(3, timeout=20)
    assert len(list(map_ahead(lambda _: barrier.wait(), range(6), threads=3))) == 6


def test_pixels_that_are_decoded_at_a_time_are_bounded() -> None:
    room, held, most = _Room(100), [0], [0]
    lock = threading.Lock()

    def work(pixels: int) -> None:
        with room.hold(pixels):
            with lock:
                held[0] += min(pixels, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= min(pixels, 100)

    sizes = [30, 60, 1, 500, 100, 45, 80] * 6
    list(map_ahead(work, sizes, threads=8))
    assert 60 < most[0] <= 100
    with pytest.raises(ZeroDivisionError), room.hold(90):
        raise ZeroDivisionError
    with room.hold(100):
        pass


def test_an_error_in_a_thread_reaches_the_caller_and_ends_the_rest() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number == 2:
            raise DatasetError("vanished")
        return number

    with pytest.raises(DatasetError, match="vanished"):
        list(map_ahead(work, range(1000), threads=2))
    assert len(started) < 20


def test_an_error_in_the_caller_ends_the_threads() -> None:
    results = map_ahead(lambda number: number, range(1000), threads=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
