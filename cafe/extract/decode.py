"""Decoding images in threads, ahead of the encoder; knows neither encoder nor cache.

Pillow drops the interpreter lock while it decodes and resizes, so threads are enough, and a damaged
image cannot take a worker process with it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.base import Dataset, Item
from cafe.encoders.preprocess import Augmentation, Preprocess, upright_rgb
from cafe.errors import DatasetError

A = TypeVar("A")
B = TypeVar("B")


class Decoded(NamedTuple):
    """One image: its views, or the reason why there are none."""

    item: Item
    views: NDArray[np.uint8] | None  # (V, S, S, 3), view 0 the plain one
    reason: str = ""


@dataclass(frozen=True)
class Decoder:
    """Turns items of a dataset into the encoder's pixels.

    Attributes
    ----------
    dataset : Dataset
    preprocess : Preprocess
    strict : bool
        Whether an image that cannot be read is an error.
    """

    dataset: Dataset
    preprocess: Preprocess
    strict: bool = False

    def decode(self, items: Sequence[Item], augmentation: Augmentation) -> list[Decoded]:
        """Decode a batch of items, with their augmented views.

        Raises
        ------
        DatasetError
            If an image is gone that was there when the dataset was listed, or, with `strict`,
            cannot be read.
        """
        return [self._decode_one(item, augmentation) for item in items]

    def _decode_one(self, item: Item, augmentation: Augmentation) -> Decoded:
        try:
            with self.dataset.open_image(item) as file:
                image = upright_rgb(file)
            crops = augmentation.crops(image, item.id)
            views = [self.preprocess.crop_pixels(crop) for crop in crops]
            return Decoded(item, np.stack([self.preprocess.pixels(image), *views]))
        except FileNotFoundError:
            raise DatasetError(
                f"image '{item.id}' of '{self.dataset.name}' was there when the run began and is "
                "gone; bring it back and run the same command again: finished work is kept."
            ) from None
        except Exception as error:  # a decoder may raise anything on a damaged file
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if self.dataset.root is not None:
                reason = reason.replace(f"{self.dataset.root}/", "")
            if self.strict:
                raise DatasetError(
                    f"image '{item.id}' of '{self.dataset.name}' cannot be read ({reason}); repair "
                    "or remove it, or go on without it with --on-error skip."
                ) from error
            return Decoded(item, None, reason)


def ahead(
    work: Callable[[A], B], arguments: Iterable[A], threads: int, waiting: int | None = None
) -> Iterator[tuple[A, B]]:
    """Map in threads, in order, a bounded number of results ahead of the consumer.

    Parameters
    ----------
    work : callable
        Runs in a thread.
    arguments : iterable
        Drawn lazily.
    threads : int
    waiting : int, optional
        Results that may wait or be under way; None is one more than threads.

    Yields
    ------
    tuple
        The argument and its result.
    """
    queue: collections.deque[tuple[A, Future[B]]] = collections.deque()
    most = threads + 1 if waiting is None else waiting
    pool = ThreadPoolExecutor(threads)
    try:
        for argument in arguments:
            queue.append((argument, pool.submit(work, argument)))
            if len(queue) > most:
                first, future = queue.popleft()
                yield first, future.result()
        while queue:
            first, future = queue.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
