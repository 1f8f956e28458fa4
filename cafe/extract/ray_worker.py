"""One worker of a cluster: loads the encoder once and encodes a block per call; imports no ray."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cafe.cluster import MOST_TRIES, has_killed
from cafe.datasets.dataset import Dataset
from cafe.encoders.encoder import Encoder
from cafe.errors import CacheMismatchError, CafeError, WeightsError, counted
from cafe.extract.blocks import ExtractOptions, PlannedBlock, encode_blocks, unfinished
from cafe.extract.resume import ResumeFolder

TRIES = ".tries"
"""Suffix of the files that count how often a block was begun."""


@dataclass
class Worker:
    """Encodes one block per call, in a process of its own on some machine of the cluster.

    It returns errors in its answer. If it raised them, Ray would wrap them, or start it again.

    Parameters
    ----------
    load : callable
        Loads the encoder, and refuses another than that of the machine that started the run.
    threads : int
        Cores of a worker that computes on a CPU.
    dataset : Dataset
        The dataset without its items, which come with each call.
    resume : ResumeFolder
    options : ExtractOptions
    """

    load: Callable[[], Encoder]
    threads: int
    dataset: Dataset
    resume: ResumeFolder
    options: ExtractOptions

    def __call__(self, row: Mapping[str, bytes]) -> dict[str, Any]:
        """Encode and keep one pickled block."""
        block: PlannedBlock = pickle.loads(row["row"])  # noqa: S301 - the driver's own
        answer = {"split": block.split, "items": len(block.items), "images": 0, "error": b""}
        try:
            answer["images"] = self._encode(block)
        except CafeError as error:
            answer["error"] = pickle.dumps(error)
        return answer

    @cached_property  # a worker encodes many blocks with one encoder
    def _encoder(self) -> Encoder:
        torch.set_num_threads(self.threads)
        try:
            return self.load()
        except CacheMismatchError as error:
            raise WeightsError(
                f"a worker on {platform.node()} has other files than the machine that started the "
                f"run: {error}"
            ) from error

    def _encode(self, block: PlannedBlock) -> int:
        # Ray also sends a block again whose worker was lost after it had kept the block
        if unfinished(self.dataset, self.resume, [block]):
            encoder, tries = self._encoder, self._count_try(block)
            encode_blocks(self.dataset, encoder, self.resume, [block], self.options)
            tries.unlink(missing_ok=True)
        return len(self.resume.load(block.split, block.number)[0].ids)

    def _count_try(self, block: PlannedBlock) -> Path:
        """Count in a file how often a block was begun."""
        file = self.resume.folder / f"{block.split}-{block.number:06d}{TRIES}"
        if has_killed(file):
            raise CafeError(
                f"{MOST_TRIES} workers died while they encoded '{block.items[0].id}' and the "
                f"{counted(len(block.items) - 1, 'image')} after it (out of memory?); extract "
                "again with a smaller batch_size= or fewer workers=."
            )
        return file
