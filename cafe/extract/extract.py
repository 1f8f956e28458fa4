"""dataset x encoder -> cache file, once; knows no method."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cafe.datasets.dataset import Dataset
from cafe.devices import resolve_device
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.decoding import Decode, decode_of
from cafe.encoders.encoder import Encoder
from cafe.encoders.projection import projection_of
from cafe.encoders.spatial import grid_of
from cafe.errors import CacheError, counted
from cafe.extract.blocks import ExtractOptions, PlannedBlock, encode_blocks, plan_blocks
from cafe.extract.crops import boxes_key
from cafe.extract.dataset_diff import Changes
from cafe.extract.existing_cache import find_existing, keep_known_splits
from cafe.extract.extraction_plan import ExtractionPlan
from cafe.extract.resume import ResumeFolder, clean_up, open_resume_folder, unfinished_key
from cafe.extract.text_notes import text_notes
from cafe.store import FeatureCache, write_cache
from cafe.store.key import Key, digest_of_array, digest_of_names, noun_of

Engine = Callable[[Dataset, Encoder, ResumeFolder, Sequence[PlannedBlock], ExtractOptions], int]
"""Encodes the blocks that are not finished yet; returns the number of images encoded."""


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
    changes : Changes
        How many images were added, removed, replaced, relabelled, moved and kept since the cache
        that was there; all 0 where there was none.
    noun : {"image", "box"}
        What the items of the dataset are.
    """

    path: Path
    images: int
    skipped: int
    seconds: float
    was_there: bool = False
    by_content: bool = True
    changes: Changes = field(default_factory=Changes)
    noun: str = "image"

    def __str__(self) -> str:
        """`20 images encoded; 20 added; 600 as they were`."""
        return "; ".join([f"{counted(self.images, self.noun)} encoded", *self.changes.words])


def cache_key(
    dataset: Dataset,
    encoder: Encoder,
    sentences: Sequence[Sequence[str]],
    augmentation: Augmentation,
    grid: tuple[int, int] | None = None,
    pre_projection: int = 0,
) -> Key:
    """Everything that determines the features of an extraction.

    `grid` is (h, w) of its maps, `pre_projection` the width of the features before the projection.
    """
    flat = [sentence for row in sentences for sentence in row]
    maps = {} if grid is None else {"spatial": {"grid": list(grid), "tokens": "projected"}}
    return {
        **encoder.key(),
        **maps,
        **({"pre_projection": {"width": pre_projection}} if pre_projection else {}),
        **boxes_key(dataset),
        "augmentation": augmentation.key(),
        "class_names_sha256": digest_of_names(dataset.class_names),
        "dataset": dataset.name,
        "dataset_sha256": dataset.fingerprint(),
        "sentences_sha256": digest_of_names([s for row in sentences for s in [*row, "\0"]]),
        "templates": list(dataset.templates) if encoder.has_text else [],
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

    Where a cache of the same dataset, encoder and prompts is there, only the images that it lacks
    are encoded. The features of the others are copied, and where cafe makes the split, they stay in
    the split that they were in.

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
        Encode anew and replace a cache that is there. Where the prompts alone have changed, they
        alone are encoded anew.
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
        If a cache of another encoder, other prompts or other images exists and `rebuild` is not
        set. The difference is named.
    DatasetError
        If an image is gone, cannot be read with `on_error="fail"`, or no image of a split can.
    CacheError
        If the cache folder cannot be written.
    BusyError
        If another process writes the same cache.
    """
    options = options or ExtractOptions()
    with contextlib.ExitStack() as stack:
        job = ExtractionJob(dataset, encoder, path, sentences)
        run = begin(stack, job, options, rebuild=rebuild, note=note)
        if isinstance(run, Extraction):
            return run
        # from here on a kill costs no more than the block that is under way
        new = run.plan.new_images
        images = engine(new, encoder, run.resume, run.blocks, options) if new else 0
        return finish(run, images)


class ExtractionJob(NamedTuple):
    """One cache to make; see `extract`."""

    dataset: Dataset
    encoder: Encoder
    path: Path
    sentences: Sequence[Sequence[str]]


class RunningExtraction(NamedTuple):
    """An extraction under way: what is to be encoded, and where finished blocks are kept."""

    job: ExtractionJob
    plan: ExtractionPlan
    blocks: Sequence[PlannedBlock]
    resume: ResumeFolder
    start: float


def begin(
    stack: contextlib.ExitStack,
    job: ExtractionJob,
    options: ExtractOptions,
    *,
    rebuild: bool = False,
    note: Callable[[str], None] | None = None,
) -> Extraction | RunningExtraction:
    """Plan an extraction, and lock its cache until `stack` is left; see `extract`.

    Returns
    -------
    Extraction or RunningExtraction
        The extraction where there is nothing to do.
    """
    dataset, encoder, path, sentences = job
    grid = None if options.spatial is None else grid_of(encoder, options.spatial)
    before = projection_of(encoder).weight.shape[0] if options.pre_projection else 0

    def key_of(data: Dataset, texts: Sequence[Sequence[str]]) -> Key:
        return cache_key(data, encoder, texts, options.augmentation, grid, before)

    existing = find_existing(path, dataset, sentences, key_of, rebuild=rebuild)
    if existing is not None and existing.is_current:
        clean_up(path)
        kept = existing.diff.changes
        noun = noun_of(existing.key)
        return Extraction(path, 0, 0, 0.0, True, existing.by_content, kept, noun)
    if note is not None:
        for line in text_notes(encoder, dataset.class_names, sentences):
            note(line)
    if existing is not None:
        plan = ExtractionPlan(existing.diff.dataset, encoder, path, existing.key, existing)
    else:
        anew = keep_known_splits(path, dataset, rebuild=rebuild)
        plan = ExtractionPlan(anew, encoder, path, key_of(anew, sentences), None)
    start, new = time.perf_counter(), plan.new_images
    blocks = plan_blocks(new, encoder, options) if new else []
    batch, knows = blocks[0].batch_size if blocks else 0, dataset.knows_content
    since = existing.cache.content_sha256 if existing else ""
    with contextlib.ExitStack() as inner:
        resume = inner.enter_context(open_resume_folder(path, plan.key, batch, note, since, knows))
        if not plan.is_outdated(rebuild=rebuild):
            stack.push(inner.pop_all())
            return RunningExtraction(job, plan, blocks, resume, start)
        resume.discard()  # another process made the file just now
    return begin(stack, job, options, rebuild=rebuild, note=note)


def finish(run: RunningExtraction, images: int) -> Extraction:
    """Write the file of an extraction whose blocks are all finished."""
    seconds = time.perf_counter() - run.start
    header, splits = run.plan.contents(run.resume, run.blocks, run.job.sentences)
    write_cache(run.job.path, header, splits)
    run.resume.discard()  # only now: the cache file is complete and on disk
    existing = run.plan.existing
    changes = existing.diff.changes if existing else Changes()
    noun, skipped = noun_of(header.key), len(header.skipped)
    return Extraction(run.job.path, images, skipped, seconds, changes=changes, noun=noun)


def precision_at_hand(path: Path, device: str) -> str | None:
    """The precision to go on in: that of a cache or of its unfinished extraction, if there is one.

    What is there decides, not the speed of the machine; but a CPU has no fp16.
    """
    precision = _key_at_hand(path).get("precision")
    if precision == "fp16" and resolve_device(device).type == "cpu":
        return None
    return precision if isinstance(precision, str) else None


def decode_at_hand(path: Path) -> Decode | None:
    """How images were decoded for a cache, or for its unfinished extraction; None for neither."""
    return decode_of(_key_at_hand(path))


def _key_at_hand(path: Path) -> Key:
    with contextlib.suppress(CacheError):
        return FeatureCache.open(path).header.key
    return unfinished_key(path) or {}
