"""Test-time adaptation of a saved head: by the images that come, or by a few labelled ones."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from cafe.errors import CafeError, InputError, raise_as
from cafe.features.tensors import Features
from cafe.inference.neighbours import check_cache_of_head, find_cache, rows_of_head
from cafe.methods.streaming.incpl import tune
from cafe.methods.streaming.oga import Oga
from cafe.methods.streaming.stream import Stream
from cafe.methods.streaming.tda import Tda
from cafe.methods.tensor_file import FAULTS, pack, read_about, read_tensors
from cafe.results.saved_head import SavedHead
from cafe.store.files import lock_file, write_file

Adapt = Literal["tda", "oga", "incpl"]

STREAMS: dict[str, type[Stream]] = {"tda": Tda, "oga": Oga}
CONTEXT_IMAGES = 16
"""Labelled images that are the context of every test image, at most."""

_METADATA = "cafe_stream"


class Adaptation(ABC):
    """A way to change a head's logits when it is used.

    Attributes
    ----------
    name : str
        "tda", "oga" or "incpl".
    takes_views : bool
        Whether it looks at augmented views of an image where there are some.
    """

    name: str
    takes_views: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """Adapted logits of raw features (N, D), or views (N, V, D), and the head's (N, C)."""

    @abstractmethod
    def about(self, count: int) -> list[dict[str, Any]]:
        """For each of the last `count` images, what its answer is adapted by and on what."""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around all use: what is learned outlives it, where that is wanted."""
        yield


class StreamAdaptation(Adaptation):
    """TDA or OGA on all images that come, in their order.

    Parameters
    ----------
    saved : SavedHead
    name : {"tda", "oga"}
    path : Path, optional
        A file that keeps the state between calls; made if it is not there.

    Raises
    ------
    InputError
        If the file is no state of this stream and this head.
    """

    def __init__(self, saved: SavedHead, name: str, path: Path | None = None) -> None:
        text = saved.zero_shot
        if text is None:
            raise InputError(
                "the head has no class texts, which adaptation needs; fit one cache with text."
            )
        self.name, self.path, self._head = name, path, digest_of_head(saved)
        self.stream = STREAMS[name](*text.weights.shape)
        if path is not None:
            self._load(path)

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """Answer images in their order, and learn from each; see `Stream.adapt`."""
        return self.stream.adapt(x, logits)

    def about(self, count: int) -> list[dict[str, Any]]:
        """The method, and how many images it had seen, this one counted."""
        first = self.stream.seen - count + 1
        return [{"method": self.name, "images_seen": first + n} for n in range(count)]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Read the state, and write it in the end, also when the work is broken off."""
        if self.path is None:
            yield
            return
        with lock_file(self.path.absolute()):
            self._load(self.path)
            try:
                yield
            finally:
                self._save(self.path)

    def _load(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise InputError(f"state='{path}' is in no folder; make '{path.parent}' first.")
        if not path.exists():
            return
        try:
            about = read_about(path, _METADATA)
            if about["stream"] != self.name:
                raise InputError(f"it is the state of {about['stream']}, not of {self.name}.")
            if about["head"] != self._head:
                raise InputError("it is the state of another head.")
            tensors = read_tensors(path, about)
            self.stream.restore(tensors, int(about["seen"]))
        except (CafeError, *FAULTS) as error:
            reason = str(error) if isinstance(error, CafeError) else "it is no state, or damaged."
            raise InputError(
                f"state='{path}' cannot be used: {reason.rstrip('.')}; name another file."
            ) from error

    def _save(self, path: Path) -> None:
        about = {"stream": self.name, "head": self._head, "seen": self.stream.seen}
        content = pack(self.stream.state(), _METADATA, about)
        with (
            raise_as(InputError, f"cannot write '{path}'", "choose another"),
            write_file(path) as f,
        ):
            f.write(content)


class InContext(Adaptation):
    """InCPL: each image is tuned by itself, with a few labelled images; see `incpl.tune`."""

    name = "incpl"
    takes_views = True

    def __init__(self, saved: SavedHead, context: Features) -> None:
        self._views = 1
        if saved.zero_shot is None:
            raise InputError(
                "the head has no class texts, which incpl needs; fit one cache with text."
            )
        self._text, self._context = saved.zero_shot, context

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """Tune each image; they do not see each other."""
        self._views = x.shape[1] if x.ndim == 3 else 1
        weights, scale = self._text.weights, float(self._text.logit_scale_bias[0])
        return tune(x, logits, weights, scale, self._context)

    def about(self, count: int) -> list[dict[str, Any]]:
        """The method, and how many labelled images and views of the image it looked at."""
        views = {"views": self._views} if self._views > 1 else {}
        return [{"method": self.name, "context_images": len(self._context), **views}] * count


def open_adaptation(
    saved: SavedHead,
    name: Adapt,
    *,
    file: Path | None = None,
    cache: Path | None = None,
    state: Path | None = None,
) -> Adaptation:
    """The adaptation of that name.

    Parameters
    ----------
    saved : SavedHead
    name : {"tda", "oga", "incpl"}
    file : Path, optional
        The head's file, beside which its cache is looked for; "incpl" needs it.
    cache : Path, optional
        Folder of caches; None is `$CAFE_CACHE`, else `./cache`.
    state : Path, optional
        The file that keeps the state of "tda" and "oga".

    Raises
    ------
    InputError
        If it needs what is not there, or the state is another's.
    CacheNotFoundError, CacheMismatchError
        If "incpl" does not find the head's cache, or it is another one by now.
    """
    if name in STREAMS:
        return StreamAdaptation(saved, name, state)
    if name != "incpl":
        raise InputError(f"adapt must be one of tda, oga, incpl; got '{name}'.")
    if state is not None:
        raise InputError(
            "incpl keeps no state: its images do not see each other; leave out state=."
        )
    return InContext(saved, context_of(saved, file or Path(), cache))


def context_of(saved: SavedHead, file: Path, folder: Path | None) -> Features:
    """A few of the images that a head was fitted on, from its cache."""
    cache = find_cache(saved, file, folder)
    check_cache_of_head(saved, cache)
    rows = rows_of_head(saved, cache)
    images = [(split, row) for split, own in rows.items() for row in own.tolist()]
    order = np.random.RandomState(saved.about.get("seed") or 0).permutation(len(images))
    chosen = [images[place] for place in order[:CONTEXT_IMAGES]]
    x, y = list[Tensor](), list[Tensor]()
    for split in rows:
        own = np.array([row for each, row in chosen if each == split], np.int64)
        read = cache.read(split, own, views=False, dtype=np.float32)
        x.append(torch.from_numpy(read.features))
        y.append(torch.from_numpy(read.labels))
    return Features(torch.cat(x), torch.cat(y))


def digest_of_head(saved: SavedHead) -> str:
    """What tells a head from all others: of what its file says, the digest of its tensors too."""
    return hashlib.sha256(json.dumps(dict(saved.about), sort_keys=True).encode()).hexdigest()
