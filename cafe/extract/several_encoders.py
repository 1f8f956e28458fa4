"""Several encoders over the images of one dataset, each of which is decoded once."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cafe.datasets.dataset import Dataset, Item
from cafe.devices import torch_threads
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.preprocess import Preprocess, quiet_pillow
from cafe.errors import InputError
from cafe.extract.blocks import (
    ExtractOptions,
    block_steps,
    count_images,
    encode_blocks,
    unfinished,
)
from cafe.extract.decode import DecodedImage, decode_item_for
from cafe.extract.extract import (
    Engine,
    Extraction,
    ExtractionJob,
    RunningExtraction,
    begin,
    extract,
    finish,
)
from cafe.progress import Progress

_MOST_WAITING = 1 << 28
"""Bytes of pixels that wait for slower encoders; beyond that an image is decoded again."""


class SharedDecoder:
    """Decodes each image once for all encoders that want it; called as `decode_item`.

    Parameters
    ----------
    wanted : mapping of str to list of Preprocess
        Id of an image -> preprocess of every encoder that will ask for it.
    """

    def __init__(self, wanted: Mapping[str, list[Preprocess]]) -> None:
        self._wanted = wanted
        self._ready: dict[tuple[str, int], DecodedImage] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def __call__(
        self,
        dataset: Dataset,
        item: Item,
        preprocess: Preprocess,
        augmentation: Augmentation | None = None,
        *,
        strict: bool = False,
    ) -> DecodedImage:
        """The pixels of an image for one encoder."""
        with self._lock:
            busy = self._busy[item.id]
        with busy:  # another thread may be decoding it
            ready = self._take(item.id, preprocess)
            if ready is not None:
                return ready
            others = [other for other in self._wanted[item.id] if other is not preprocess]
            if self._bytes > _MOST_WAITING:
                others = []
            images = decode_item_for(
                dataset, item, [preprocess, *others], augmentation, strict=strict
            )
            self._keep(item.id, preprocess, others, images[1:])
            return images[0]

    def _take(self, image: str, preprocess: Preprocess) -> DecodedImage | None:
        with self._lock:
            ready = self._ready.pop((image, id(preprocess)), None)
            if ready is not None and ready.views is not None:
                self._bytes -= ready.views.nbytes
            return ready

    def _keep(
        self,
        image: str,
        preprocess: Preprocess,
        others: Sequence[Preprocess],
        images: Sequence[DecodedImage],
    ) -> None:
        with self._lock:
            served = [preprocess, *others]
            wanted = self._wanted[image]
            wanted[:] = [other for other in wanted if other not in served]
            for other, decoded in zip(others, images, strict=True):
                self._ready[image, id(other)] = decoded
                self._bytes += 0 if decoded.views is None else decoded.views.nbytes


def extract_all(
    jobs: Sequence[ExtractionJob],
    options: ExtractOptions,
    *,
    engine: Engine = encode_blocks,
    rebuild: bool = False,
    note: Callable[[str], None] | None = None,
) -> list[Extraction]:
    """Make a cache, or several of one dataset with different encoders in one pass over its images.

    Parameters
    ----------
    jobs : sequence of ExtractionJob
        Of one dataset, with different encoders and paths.
    options : ExtractOptions
    engine, rebuild, note
        As for `cafe.extract.extract.extract`.

    Returns
    -------
    list of Extraction
        One for each job.

    Raises
    ------
    InputError
        If two would write one cache, or several are asked of a cluster; else as `extract` does.
    """
    how: dict[str, Any] = {"options": options, "rebuild": rebuild, "engine": engine, "note": note}
    if len(jobs) == 1 or jobs[0].dataset.crops:  # crops are cut anew for each encoder
        return [extract(job[0], job[1], job[2], sentences=job[3], **how) for job in jobs]
    if engine is not encode_blocks:
        raise InputError("the engine 'ray' takes one model at a time; name one.")
    if len({job.path for job in jobs}) < len(jobs):
        names = ", ".join(str(job.path) for job in jobs)
        raise InputError(f"two of these models have one cache ({names}); name each model once.")
    with contextlib.ExitStack() as stack:
        runs = [begin(stack, job, options, rebuild=rebuild, note=note) for job in jobs]
        pending = {
            place: run for place, run in enumerate(runs) if isinstance(run, RunningExtraction)
        }
        images = _encode(pending, options)
        return [
            finish(run, images[place]) if isinstance(run, RunningExtraction) else run
            for place, run in enumerate(runs)
        ]


def _encode(runs: Mapping[int, RunningExtraction], options: ExtractOptions) -> dict[int, int]:
    """Encode the unfinished blocks of all, the one that is behind first; counts the images."""
    images = dict.fromkeys(runs, 0)
    todo = {
        place: unfinished(run.plan.dataset, run.resume, run.blocks) for place, run in runs.items()
    }
    wanted: dict[str, list[Preprocess]] = defaultdict(list)
    for place, blocks in todo.items():
        for item in (item for block in blocks for item in block.items):
            wanted[item.id].append(runs[place].job.encoder.preprocess)
    decode, shown = SharedDecoder(wanted), _JointProgress(options.progress)
    workers = options.workers or torch.get_num_threads()
    with quiet_pillow(), torch_threads(1):
        steps: dict[int, Iterator[int]] = {}
        for place, run in runs.items():
            total = count_images(run.blocks)
            of_run = replace(options, progress=shown.of(place, total))
            if run.job.encoder.device.type == "cpu":
                of_run = replace(of_run, workers=workers)
            done = total - count_images(todo[place])
            steps[place] = block_steps(
                run.plan.dataset, run.job.encoder, run.resume, todo[place], of_run, done, decode
            )
        left = {place: len(blocks) for place, blocks in todo.items() if blocks}
        with contextlib.ExitStack() as stack:
            for place in steps:
                stack.enter_context(contextlib.closing(steps[place]))  # type: ignore[type-var]
            while left:
                place = max(left, key=lambda place: left[place] / len(todo[place]))
                images[place] += next(steps[place])
                left[place] -= 1
                if not left[place]:
                    del left[place]
    return images


class _JointProgress:
    """The progress of several extractions as one."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done: dict[int, int] = {}
        self._total: dict[int, int] = {}

    def of(self, place: int, total: int) -> Progress | None:
        """What one of them calls."""
        if self._progress is None:
            return None
        shown, self._done[place], self._total[place] = self._progress, 0, total

        def progress(stage: str, done: int, _total: int) -> None:
            self._done[place] = done
            shown(stage, sum(self._done.values()), sum(self._total.values()))

        return progress
