"""Scoring a head on labelled images, a block of images at a time in each core."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from cafe.engine.workers import Report, run_jobs
from cafe.features.tensors import Features
from cafe.methods.head import Head, predict_in_blocks, rows_at_a_time
from cafe.results.image_scores import ImageScores

MOST_WORKERS = 16
"""Blocks of logits in memory at once, at most."""


def score_head(
    head: Head,
    images: Features,
    classes: int,
    *,
    temperature: float | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> ImageScores:
    """Score a head on labelled images.

    Parameters
    ----------
    head : Head
    images : Features
        N images on the device of the head.
    classes : int
        C.
    temperature : float or None
        See `ImageScores`.
    tell : callable or None
        Called with the images that are done and those there are.
    """
    scores, rows = ImageScores.room_for(images.y, classes, temperature), rows_at_a_time(head)
    done = 0

    def look(start: int, report: Report) -> None:
        block = images.block(slice(start, start + rows), **head.takes)
        scores.add(predict_in_blocks(head, block, rows), start)
        report(len(block))

    def on_progress(count: int) -> None:
        nonlocal done
        done += count
        if tell is not None:
            tell(done, len(images))

    jobs = [partial(look, start) for start in range(0, len(images), rows)]
    on_cpu = images.y.device.type == "cpu"
    workers = min(torch.get_num_threads(), len(jobs), MOST_WORKERS) if on_cpu else 1
    run_jobs(jobs, max(1, workers), on_progress=on_progress, on_result=lambda _: None)
    return scores
