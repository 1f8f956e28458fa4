"""dataset x encoder -> cache file, once; knows no method."""

from __future__ import annotations

import collections
import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cafe.datasets.dataset import Dataset
from cafe.datasets.open_image import NO_STATE
from cafe.datasets.text_files import quote_some
from cafe.encoders.encoder import Encoder
from cafe.encoders.preprocess import Augmentation
from cafe.encoders.spatial import grid_of
from cafe.errors import CacheError, CacheMismatchError, DatasetError, counted
from cafe.extract.blocks import ExtractOptions, PlannedBlock, encode_blocks, plan_blocks
from cafe.extract.file_states import changed_images, state_array
from cafe.extract.resume import ResumeFolder, clean_up, open_resume_folder, unfinished_key
from cafe.extract.text_notes import text_notes
from cafe.store import FeatureCache, Header, utc_now, write_cache
from cafe.store.key import Key, differences, digest_of_array, digest_of_names

Engine = Callable[[Dataset, Encoder, ResumeFolder, Sequence[PlannedBlock], ExtractOptions], int]
"""Encodes the blocks that are not finished yet; returns the number of images encoded."""

Skipped = tuple[tuple[str, str, str], ...]
"""Split, id and reason of every image that could not be read."""

_VERSIONS = ("cafe-clip", "open_clip_torch", "torch", "torchvision", "pillow", "h5py", "numpy")


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    path : Path
        The cache file.
    images : int
        Images encoded by this run; 0 where the cache was there.
    skipped : int
        Images that could not be read.
    seconds : float
        Time to encode the images.
    was_there : bool
        Whether the same cache existed already, so that nothing was done.
    by_content : bool
        Whether the content of the images' files was compared with it: a cache that an older cafe
        made knows their names and sizes alone.
    """

    path: Path
    images: int
    skipped: int
    seconds: float
    was_there: bool = False
    by_content: bool = True


def cache_key(
    dataset: Dataset,
    encoder: Encoder,
    sentences: Sequence[Sequence[str]],
    augmentation: Augmentation,
    grid: tuple[int, int] | None = None,
) -> Key:
    """Everything that determines the features of an extraction; `grid` is (h, w) of its maps."""
    flat = [sentence for row in sentences for sentence in row]
    maps = {} if grid is None else {"spatial": {"grid": list(grid), "tokens": "projected"}}
    return {
        **encoder.key(),
        **maps,
        "augmentation": augmentation.key(),
        "class_names_sha256": digest_of_names(dataset.class_names),
        "dataset": dataset.name,
        "dataset_sha256": dataset.fingerprint(),
        "decoding": "first frame, EXIF upright, alpha on white, 16-bit scaled, RGB",
        "sentences_sha256": digest_of_names([s for row in sentences for s in [*row, "\0"]]),
        "templates": list(dataset.templates),
        "tokens_sha256": digest_of_array(encoder.token_ids(flat).numpy()),
    }


def extract(
    dataset: Dataset,
    encoder: Encoder,
    path: Path,
    *,
    sentences: Sequence[Sequence[str]],
    options: ExtractOptions | None = None,
    rebuild: bool = False,
    engine: Engine = encode_blocks,
    note: Callable[[str], None] | None = None,
) -> Extraction:
    """Encode a dataset once and write its cache file.

    An interrupted extraction resumes after its last finished block when it is run again.

    Parameters
    ----------
    dataset : Dataset
    encoder : Encoder
    path : Path
        The cache file to write.
    sentences : sequence of sequence of str
        Prompts of every class; lengths may differ. (C, P)
    options : ExtractOptions, optional
    rebuild : bool
        Encode anew and replace a cache that is there.
    engine : callable
        Where the blocks are encoded: in this process, or by the workers of a Ray cluster
        (`cafe.extract.ray.RayEngine`). The cache file is the same.
    note : callable, optional
        Told in a sentence each what the encoder does not read of the sentences, and when finished
        blocks of another extraction are removed.

    Returns
    -------
    Extraction

    Raises
    ------
    CacheMismatchError
        If a cache of another key or of other files exists and `rebuild` is not set. The difference
        is named.
    DatasetError
        If an image is gone, cannot be read with `on_error="fail"`, or no image of a split can.
    CacheError
        If the cache folder cannot be written.
    BusyError
        If another process writes the same cache.
    """
    options = options or ExtractOptions()
    grid = None if options.spatial is None else grid_of(encoder, options.spatial)
    key = cache_key(dataset, encoder, sentences, options.augmentation, grid)
    if path.is_file() and not rebuild:
        found = _was_there(path, key, dataset)
        clean_up(path)
        return found
    if note is not None:
        for line in text_notes(encoder, dataset.class_names, sentences):
            note(line)
    start = time.perf_counter()
    blocks = plan_blocks(dataset, encoder, options)
    with open_resume_folder(path, key, blocks[0].batch_size, note) as resume:
        if path.is_file() and not rebuild:  # another process made it just now
            found = _was_there(path, key, dataset)
            resume.discard()
            return found
        # from here on a kill costs no more than the block that is under way
        images = engine(dataset, encoder, resume, blocks, options)
        seconds = time.perf_counter() - start
        failures = [
            (block.split, failure)
            for block in blocks
            for failure in resume.load(block.split, block.number)[1]
        ]
        skipped = tuple((split, failure.id, failure.reason) for split, failure in failures)
        _refuse_empty(dataset, skipped, resume)
        header = _header(dataset, encoder, key, sentences, skipped)
        if dataset.root is not None:
            states = state_array(failure.state or NO_STATE for _, failure in failures)
            header = replace(header, skipped_files=states)
        counts = collections.Counter(block.split for block in blocks)
        write_cache(path, header, {split: resume.blocks(split, n) for split, n in counts.items()})
        resume.discard()  # only now: the cache file is complete and on disk
    return Extraction(path, images, len(skipped), seconds)


def precision_at_hand(path: Path) -> str | None:
    """The precision of a cache, or of its unfinished extraction; None where there is neither."""
    key = unfinished_key(path)
    with contextlib.suppress(CacheError):
        key = FeatureCache.open(path).header.key
    precision = key and key.get("precision")
    return precision if isinstance(precision, str) else None


def _was_there(path: Path, key: Key, dataset: Dataset) -> Extraction:
    """The cache that is there; refused where it has another key, or was made of other files."""
    cache = FeatureCache.open(path)
    different, changed = differences(cache.header.key, key), None
    if not different:
        changed = changed_images(cache, dataset)
        if changed:
            images = counted(len(changed), "image", "have")
            different = [f"{images} changed since ({quote_some(changed)})"]
    if different:
        raise CacheMismatchError(
            f"'{path}' was made differently: {'; '.join(different)}. Replace it with rebuild=True, "
            "or keep both with another folder, cache=."
        )
    by_content = changed is not None or dataset.root is None
    return Extraction(path, 0, 0, 0.0, was_there=True, by_content=by_content)


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
) -> Header:
    prompts = max(len(row) for row in sentences)
    # classes may have different numbers of prompts; "" marks what is not there
    padded = tuple((*row, *[""] * (prompts - len(row))) for row in sentences)  # (C, P)
    is_present = np.array([[sentence != "" for sentence in row] for row in padded])  # (C, P)
    text = np.zeros((*is_present.shape, encoder.width), np.float32)  # (C, P, D)
    text[is_present] = encoder.encode_text([s for row in sentences for s in row]).numpy()
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
    )
