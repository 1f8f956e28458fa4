"""A saved head adapted to images without labels: to those it is asked about, or to a pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from cafe.errors import InputError, counted
from cafe.extract.encode_images import EncodedImages
from cafe.features.pool import Pool, are_copies, kind_of, load_pool
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet, join
from cafe.inference.neighbours import check_cache_of_head, find_cache, rows_of_head
from cafe.methods.base import Context
from cafe.methods.head import Head
from cafe.methods.transductive.lda_prior_pooled import FEW_WORDS, HALF, LdaPriorPooled
from cafe.results.saved_head import SavedHead
from cafe.store import SPLITS, FeatureCache
from cafe.study.pool import PoolLike


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedHead(Head):
    """Half of a saved head, and half of `lda-prior-pooled` that starts from it; never saved."""

    saved: Head = field(repr=False)
    pooled: Head = field(repr=False)

    no_graph: ClassVar[str] = "it was adapted to one pool of images"

    def logits(self, x: Tensor) -> Tensor:
        """Log-probabilities; see `Head.logits`. (N, C)"""
        own = self.saved.logits(x).log_softmax(dim=-1) + math.log(1 - HALF)
        return torch.logaddexp(own, self.pooled.logits(x).log_softmax(dim=-1) + math.log(HALF))

    def tensors(self) -> dict[str, Tensor]:
        """Those of the saved head."""
        return self.saved.tensors()


@dataclass(frozen=True)
class Shots:
    """The labelled images that a saved head was fitted on, which adapting needs again.

    Attributes
    ----------
    saved : SavedHead
    train : TrainingSet
    cache : FeatureCache
    """

    saved: SavedHead
    train: TrainingSet
    cache: FeatureCache

    @classmethod
    def find(cls, saved: SavedHead, file: Path, folder: Path | None = None) -> Shots:
        """Find a head's shots in the cache that it was fitted on.

        Parameters
        ----------
        saved : SavedHead
        file : Path
            The head's file.
        folder : Path, optional
            See `find_cache`.

        Raises
        ------
        CacheNotFoundError, CacheMismatchError
            If the cache is not there, or is another one by now.
        InputError
            If the head takes spatial maps, or does not say its shots.
        """
        if saved.head.spatial:
            raise InputError(f"{saved.head.method} takes spatial maps, which no pool has.")
        if saved.head.pre_projection:
            raise InputError(
                f"{saved.head.method} takes features before the projection, which no pool has."
            )
        cache = find_cache(saved, file, folder)
        check_cache_of_head(saved, cache)
        task, rows = load_task(cache), rows_of_head(saved, cache)
        images = join(
            [task.splits[name][torch.from_numpy(own)].to("cpu") for name, own in rows.items()]
        )
        device = saved.head.device
        return cls(saved, TrainingSet(images, task.text).to(device), cache)

    def load_pool(self, pool: PoolLike) -> Pool | None:
        """The unlabelled images that are meant, in words for this head; see `load_pool`.

        Raises
        ------
        InputError
            If it is the test split, and the head was fitted on that too.
        CacheMismatchError
            If the features are of another encoder.
        """
        if "seed" in self.saved.about:
            return load_pool(self.cache, pool)
        if pool == "test":
            raise InputError(
                "the model was fitted on every labelled image, those of the test split too; take "
                "pool=self, or name a cache of other images."
            )
        return load_pool(self.cache, pool, SPLITS)

    def adapt(self, pool: Pool) -> tuple[SavedHead, bool]:
        """The head adapted to a pool, and whether that seems to hold few of the classes."""
        device = self.train.text.features.device
        method = LdaPriorPooled(pool=pool.to(device), context=Context(device))
        pooled = method.fit_beside(self.saved.head, self.train)
        start = self.saved.head
        head: Head = AdaptedHead(saved=start, pooled=pooled, method=start.method)
        if not pooled.params["pool_weight"]:
            head = start
        about = {**self.saved.about, "learning": pool.learning}
        return replace(self.saved, head=head, about=about), bool(pooled.params["few_classes"])

    def adapt_to(
        self,
        batches: Iterable[EncodedImages],
        pool: Pool | None,
        note: Callable[[str], None] | None = None,
    ) -> tuple[SavedHead, Iterable[EncodedImages]]:
        """The head adapted to a pool, or where that is None to the images that are encoded."""
        if pool is None:
            batches = list(batches)  # all of them before the first answer
            found = [batch.inputs for batch in batches if len(batch.inputs)]
            if not found:
                return self.saved, batches
            pool = pool_of_asked(torch.cat(found))
        else:
            pool, batches = _as_it_is(pool, batches)
        saved, few = self.adapt(pool)
        if note is not None:
            note(f"{saved.head.method}, {pool.learning}{_FEW if few else ''}")
        return saved, batches


_FEW = f"; {FEW_WORDS}"


def _as_it_is(pool: Pool, batches: Iterable[EncodedImages]) -> tuple[Pool, Iterable[EncodedImages]]:
    """The pool, transductive where it holds images of the first batch that is asked about."""
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        return pool, ()
    asked = first.inputs.to(pool.x.device)
    known = kind_of(pool.learning) == "transductive" or asked.shape[1:] != pool.x.shape[1:]
    if not known and (shared := int(are_copies(asked, pool.unit).sum())):
        words = f"{shared:,} of the first {counted(len(asked), 'image')} asked about among them"
        pool = Pool(
            pool.x, f"transductive: sees {counted(len(pool), 'image')} without labels, {words}"
        )
    return pool, chain([first], rest)


def pool_of_asked(x: Tensor) -> Pool:
    """The images that a head is asked about, as a pool."""
    images = counted(len(x), "image")
    return Pool(x, f"transductive: sees the {images} that it is asked about without their labels")
