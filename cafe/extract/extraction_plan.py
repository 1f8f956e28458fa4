"""The plan of a cache file: which images to encode, and which to copy from an existing cache."""

from __future__ import annotations

import collections
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.boxes.dataset import BoxDataset
from cafe.datasets.dataset import Dataset
from cafe.datasets.open_image import NO_STATE
from cafe.encoders.encoder import Encoder
from cafe.encoders.projection import projection_of
from cafe.errors import DatasetError, counted
from cafe.extract.blocks import PlannedBlock
from cafe.extract.crops import with_boxes
from cafe.extract.existing_cache import ExistingCache
from cafe.extract.file_states import state_array
from cafe.extract.merge_blocks import merge_blocks
from cafe.extract.resume import ResumeFolder
from cafe.store import Block, FeatureCache, Header, utc_now
from cafe.store.key import Key

Skipped = tuple[tuple[str, str, str], ...]
"""Split, id and reason of every image that could not be read."""

_VERSIONS = ("cafe-clip", "open_clip_torch", "torch", "torchvision", "pillow", "h5py", "numpy")


@dataclass(frozen=True)
class ExtractionPlan:
    """A cache file to write: all images encoded, or those that an existing cache lacks."""

    dataset: Dataset
    encoder: Encoder
    path: Path
    key: Key
    existing: ExistingCache | None

    @cached_property
    def new_images(self) -> Dataset | None:
        """The images that are to be encoded; None where there are none."""
        if self.existing is None:
            return self.dataset
        known = self.existing.diff.places
        splits = {
            split: tuple(item for item in items if item.id not in known)
            for split, items in self.dataset.splits.items()
        }
        return replace(self.dataset, splits=splits) if any(splits.values()) else None

    def is_outdated(self, *, rebuild: bool) -> bool:
        """Whether another process has changed the file since the plan was made."""
        if rebuild and self.existing is None:
            return False
        if self.existing is None or not self.path.is_file():
            return (self.existing is None) == self.path.is_file()
        now = FeatureCache.open(self.path)
        return now.content_sha256 != self.existing.cache.content_sha256

    def contents(
        self,
        resume: ResumeFolder,
        blocks: Sequence[PlannedBlock],
        sentences: Sequence[Sequence[str]],
    ) -> tuple[Header, dict[str, Iterator[Block]]]:
        """What the file is to hold, once these blocks are finished.

        Raises
        ------
        DatasetError
            If no image of a split can be read.
        """
        failures = [
            (block.split, failure)
            for block in blocks
            for failure in resume.load(block.split, block.number)[1]
        ]
        skipped = tuple((split, failure.id, failure.reason) for split, failure in failures)
        _refuse_empty(self.dataset, skipped, resume)
        before = self.existing.cache.header if self.existing else None
        header = _header(self.dataset, self.encoder, self.key, sentences, skipped, before)
        if self.dataset.knows_content:
            states = state_array(failure.state or NO_STATE for _, failure in failures)
            header = replace(header, skipped_files=states)
        counts = collections.Counter(block.split for block in blocks)
        made = {split: resume.blocks(split, counts[split]) for split in self.dataset.splits}
        if self.existing is not None:
            unread = {row[:2] for row in skipped}
            for split, items in self.dataset.splits.items():
                read = [item for item in items if (split, item.id) not in unread]
                made[split] = merge_blocks(
                    self.existing.cache, self.existing.diff, read, made[split]
                )
        if isinstance(self.dataset, BoxDataset):
            made = {split: with_boxes(self.dataset, blocks) for split, blocks in made.items()}
        return header, made


def _refuse_empty(dataset: Dataset, skipped: Skipped, resume: ResumeFolder) -> None:
    for split, items in dataset.splits.items():
        failures = [failure for failure in skipped if failure[0] == split]
        if items and len(failures) == len(items):
            resume.discard()  # the images must be repaired first, which changes the key
            raise DatasetError(
                f"none of the {counted(len(items), 'image')} of split '{split}' of "
                f"'{dataset.name}' can be read ({failures[0][1]}: {failures[0][2]}); repair them "
                "and extract again."
            )


def _header(
    dataset: Dataset,
    encoder: Encoder,
    key: Key,
    sentences: Sequence[Sequence[str]],
    skipped: Skipped,
    before: Header | None,
) -> Header:
    prompts = max(len(row) for row in sentences)
    # classes may have different numbers of prompts; "" marks what is not there
    padded = tuple((*row, *[""] * (prompts - len(row))) for row in sentences)  # (C, P)
    is_present = np.array([[sentence != "" for sentence in row] for row in padded], bool)  # (C, P)
    text = np.zeros((*is_present.shape, encoder.width), np.float32)  # (C, P, D)
    text[is_present] = _encode_text(encoder, [s for row in sentences for s in row], before)
    weight, bias = projection_of(encoder) if "pre_projection" in key else (None, None)
    return Header(
        key=key,
        dataset=dataset.name,
        model=encoder.model,
        pretrained=encoder.pretrained,
        class_names=dataset.class_names,
        sentences=padded,
        text_features=text,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        source=dataset.source,
        notes=dataset.notes,
        missing=dataset.missing,
        skipped=skipped,
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        created=utc_now(),
        projection=None if weight is None else weight.numpy(),
        projection_bias=None if bias is None else bias.numpy(),
    )


def _encode_text(
    encoder: Encoder, sentences: Sequence[str], before: Header | None
) -> NDArray[np.float32]:
    """Features of sentences, copied where a cache of the same encoder has them. (n, D)"""
    known: dict[str, NDArray[np.float32]] = {}
    if before is not None and before.has_text:
        for row, features in zip(before.sentences, before.text_features, strict=True):
            known.update(zip(row, features, strict=True))
    new = [sentence for sentence in sentences if sentence not in known]
    if new:
        known.update(zip(new, encoder.encode_text(new).numpy(), strict=True))
    if not sentences:  # of an encoder of images alone
        return np.zeros((0, encoder.width), np.float32)
    return np.stack([known[sentence] for sentence in sentences])
