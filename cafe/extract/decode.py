"""Decoding images ahead of the encoder, in threads or processes; knows neither encoder nor cache.

Pillow releases the interpreter lock while it decodes and resizes. On a few cores threads are
therefore as fast as processes, and start at once. On many, a thread waits for the lock each time
that it takes it back: on 16 cores, 16 processes decoded four times as many images as 16 threads
(`benchmarks/accelerator.py`).
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.datasets.dataset import Dataset, Item
from cafe.datasets.open_image import STATE, FileState, open_image
from cafe.datasets.open_url import is_url, open_url
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.preprocess import Preprocess, upright_rgb
from cafe.errors import DatasetError, ImageError

A = TypeVar("A")
B = TypeVar("B")

NO_FILE = "there is no such file"


class DecodedImage(NamedTuple):
    """The pixels of one image, or the reason why there are none.

    Attributes
    ----------
    views : ndarray or None
        The encoder's pixels of every view, the plain one first. (V, S, S, 3)
    reason : str
        Why the image cannot be read; "" where it can.
    state : FileState or None
        State of its file; None where it is none.
    """

    views: NDArray[np.uint8] | None
    reason: str = ""
    state: FileState | None = None


class _Room:
    """Bounds the pixels of all images that threads decode at a time, and so their memory."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for so many free pixels, and take them."""
        taken = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


_ROOM = _Room(1 << 28)
"""Of 8 bytes each: 2 GiB, however many threads decode."""

ImageReader = Callable[[], DecodedImage]
"""Reads one image; called in a thread or in another process."""


def decode_image(
    open_image: Callable[[], AbstractContextManager[Image.Image]],
    preprocess: Preprocess,
    augmentation: Augmentation | None = None,
    image_id: str = "",
) -> DecodedImage:
    """Decode one image, with its augmented views.

    Parameters
    ----------
    open_image : callable
        Opens the image; its file is closed afterwards.
    preprocess : Preprocess
    augmentation : Augmentation, optional
        None makes the plain view alone.
    image_id : str
        Id from which the augmented views are drawn.
    """
    return _decode(open_image, [preprocess], augmentation, image_id)[0]


def _decode(
    open_image: Callable[[], AbstractContextManager[Image.Image]],
    preprocesses: Sequence[Preprocess],
    augmentation: Augmentation | None,
    image_id: str,
) -> list[DecodedImage]:
    """The pixels of one image for each of several encoders."""
    try:
        found: dict[int, DecodedImage] = {}
        while len(found) < len(preprocesses):  # once per scale: each sees what it sees alone
            # all pixels are counted: a progressive JPEG keeps them all, at every scale
            with open_image() as file, _ROOM.hold(file.width * file.height):
                scales = [own.scale(file, augmentation) for own in preprocesses]
                scale = next(s for number, s in enumerate(scales) if number not in found)
                image = upright_rgb(file, scale)
                crops = augmentation.crops(image, image_id) if augmentation else []
                for number, own in enumerate(preprocesses):
                    if scales[number] == scale:
                        views = [own.pixels(image), *map(own.crop_pixels, crops)]
                        found[number] = DecodedImage(np.stack(views))
        return [found[number] for number in range(len(preprocesses))]
    except FileNotFoundError:
        reason = NO_FILE
    except ImageError as error:
        reason = str(error)
    except Exception as error:  # Pillow's decoders raise anything on a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    return [DecodedImage(None, reason)] * len(preprocesses)


def decode_item(
    dataset: Dataset,
    item: Item,
    preprocess: Preprocess,
    augmentation: Augmentation | None = None,
    *,
    strict: bool = False,
) -> DecodedImage:
    """Decode one item of a dataset, with its augmented views; see `decode_item_for`."""
    return decode_item_for(dataset, item, [preprocess], augmentation, strict=strict)[0]


def decode_item_for(
    dataset: Dataset,
    item: Item,
    preprocesses: Sequence[Preprocess],
    augmentation: Augmentation | None = None,
    *,
    strict: bool = False,
) -> list[DecodedImage]:
    """Decode one item of a dataset once, for each of several encoders.

    Raises
    ------
    DatasetError
        If the image was deleted after the dataset was listed, or, with `strict`, cannot be read.
    """
    state: FileState | None = None

    def open_item() -> Image.Image:
        nonlocal state
        opened = dataset.open_image(item)
        state = opened.info.get(STATE)
        return opened

    images = _decode(open_item, preprocesses, augmentation, item.id)
    if state is None and dataset.knows_content:  # it could not be opened
        state = dataset.state(item.id)
    reason = images[0].reason
    if reason == NO_FILE:
        raise DatasetError(
            f"image '{item.id}' of '{dataset.name}' was there when the run began and is gone; "
            "bring it back and run the same command again: finished work is kept."
        )
    if dataset.root is not None:  # a cache records reasons, and shall not tell whose folder it was
        reason = reason.replace(f"{dataset.root}/", "")
    if reason and strict:
        raise DatasetError(
            f"image '{item.id}' of '{dataset.name}' cannot be read ({reason}); repair or remove "
            "it, or go on without it with on_error='skip'."
        )
    return [image._replace(reason=reason, state=state) for image in images]


def decode_path(path: str | os.PathLike[str], preprocess: Preprocess) -> DecodedImage:
    """Decode a file or a URL."""
    if is_url(path):
        return decode_image(lambda: open_url(str(path)), preprocess)
    return decode_image(lambda: open_image(Path(path)), preprocess)


Piece = tuple[Sequence[ImageReader], bool]
"""What reads some images of a batch, and whether they are the last of it."""


def decode_piece(piece: Piece) -> tuple[list[DecodedImage], bool]:
    """Decode some images of a batch; called in a thread or in another process."""
    readers, is_last = piece
    return [read() for read in readers], is_last


def map_ahead(
    work: Callable[[A], B],
    arguments: Iterable[A],
    threads: int,
    waiting: int | None = None,
    pool: Executor | None = None,
) -> Iterator[B]:
    """Map in threads, in order, with a bounded number of results ahead of the consumer.

    `Executor.map` would submit everything at once, and keep every decoded image in memory.

    Parameters
    ----------
    work : callable
        Runs in a thread, or in the pool.
    arguments : iterable
        Drawn lazily.
    threads : int
    waiting : int, optional
        Most results that are waiting or under way; None is one more than threads.
    pool : Executor, optional
        Where to work instead of in threads; shut down at the end.

    Yields
    ------
    The results.
    """
    queue: collections.deque[Future[B]] = collections.deque()
    most = threads + 1 if waiting is None else waiting
    pool = pool or ThreadPoolExecutor(threads)
    try:
        for argument in arguments:
            queue.append(pool.submit(work, argument))
            if len(queue) > most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        # also after an error or an abandoned loop: what has not begun is not worth waiting for
        for future in queue:
            future.cancel()
        pool.shutdown(wait=False)
