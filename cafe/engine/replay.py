"""Replaying a training step on a GPU as a CUDA graph; knows nothing of what a step does.

A step of a small head takes a GPU less time than Python takes to ask for it. A graph asks for all
of it at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch

from cafe.engine.architecture import Batch

_PLAIN_STEPS = 3
"""Steps of a shape before one is captured: they allocate what all steps share, and pick kernels."""

_ONE = threading.Lock()
"""PyTorch captures one graph at a time in a process."""


class ReplayedStep:
    """A step whose kernels are captured once for each shape of a batch, and replayed from then on.

    Where a step cannot be captured, as one that waits for the GPU cannot, it is run as it is.

    Parameters
    ----------
    step : callable
        Takes a batch. Whatever else it reads or writes must be the same tensors in each call.
    """

    def __init__(self, step: Callable[[Batch], None]) -> None:
        self._step = step
        self._seen = Counter[torch.Size]()
        self._captured: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self._can_capture = True

    def __call__(self, batch: Batch) -> None:
        """Take the step."""
        shape = batch.y.shape
        if shape not in self._captured and self._can_capture and self._seen[shape] == _PLAIN_STEPS:
            self._capture(batch)
        if shape not in self._captured:
            self._seen[shape] += 1
            self._step(batch)
            return
        graph, own = self._captured[shape]
        own.y.copy_(batch.y)
        for name, rows in batch.rows.items():
            own.rows[name].copy_(rows)
        graph.replay()

    def _capture(self, batch: Batch) -> None:
        rows = {name: value.clone() for name, value in batch.rows.items()}
        own = replace(batch, rows=rows, y=batch.y.clone())
        graph, device = torch.cuda.CUDAGraph(), batch.y.device
        with _ONE, torch.cuda.device(device):
            before, stream = torch.cuda.current_stream(), _stream(device)
            try:
                # other threads may go on asking for what a capture forbids, as an encoder's do
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._step(own)
            except RuntimeError:
                torch.cuda.set_stream(before)  # where its end fails too, PyTorch leaves the other
                self._can_capture = False
            else:
                self._captured[batch.y.shape] = graph, own


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for captures on a GPU; PyTorch's own is on the GPU that was first used."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
