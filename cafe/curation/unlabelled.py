"""Images without a label, wherever they are, and what to suggest a person to label next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cafe.curation.next_images import Strategy, class_answers, next_images
from cafe.curation.suggestions import Suggestion
from cafe.datasets.dataset import NO_LABEL
from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import check_recorded_encoder, record_of_cache
from cafe.errors import CacheMismatchError, DatasetError, unescape_bytes
from cafe.extract.encode import LoaderOptions
from cafe.extract.encode_images import encode_images
from cafe.extract.image_sources import ImageSource
from cafe.features.pool import are_copies, check_pool_encoder
from cafe.features.task import class_text, load_task
from cafe.features.tensors import ClassText, Features
from cafe.store import FeatureCache

PROBLEM = "unlabelled"
"""The problem of a suggestion to label an image."""

_BLOCK = 1 << 24  # cosines at a time


class Unlabelled(NamedTuple):
    """Images to choose from.

    Attributes
    ----------
    ids : list of str
        In the cache, or the paths as they were named. (N,)
    x : Tensor
        Raw features. (N, D)
    current : list of str
        The class that stands for "no label" of each in the cache; "" where the images are
        elsewhere. (N,)
    """

    ids: list[str]
    x: Tensor
    current: list[str]

    @classmethod
    def elsewhere(cls, ids: list[str], x: Tensor) -> Unlabelled:
        """Images that are in no class."""
        return cls(ids, x, [""] * len(ids))


class Known(NamedTuple):
    """What is known so far: the labelled images of the training split, and the classes' text."""

    labelled: Features
    text: ClassText


def known_labels(cache: FeatureCache) -> Known:
    """Labelled training images and the texts of a cache, without a class for "no label".

    Images of the other splits stay for an honest score.
    """
    text, train = class_text(cache.header), load_task(cache).splits.get("train")
    labelled = Features(torch.zeros(0, cache.width), torch.zeros(0, dtype=torch.int64))
    if train is not None:
        labelled = Features(train.to("cpu").x, train.y)
    kept = [c for c, name in enumerate(text.names) if name.lower() not in NO_LABEL]
    place = torch.full((len(text.names),), -1)
    place[kept] = torch.arange(len(kept))
    rows = (place[labelled.y] >= 0).nonzero().squeeze(1)
    names = tuple(text.names[c] for c in kept)
    return Known(
        Features(labelled.x[rows], place[labelled.y[rows]]),
        ClassText(text.features[kept], names, text.logit_scale, text.logit_bias),
    )


def without_label(cache: FeatureCache) -> Unlabelled:
    """The images of the classes "unlabelled" and "unlabeled" of a cache, of all splits.

    Raises
    ------
    DatasetError
        If it has no such class.
    """
    names = cache.header.class_names
    empty = [c for c, name in enumerate(names) if name.lower() in NO_LABEL]
    if not empty:
        raise DatasetError(
            f"every {cache.noun} of cache '{cache.path}' has a label; "
            + ("name files or folders of images without one, " if cache.noun == "image" else "")
            + "give pool= another cache, or call their class 'unlabelled'."
        )
    ids, current, parts = list[str](), list[str](), []
    for split in cache.counts:
        labels, all_ids = cache.labels(split), cache.ids(split)
        rows = np.flatnonzero(np.isin(labels, empty))
        ids += [all_ids[row] for row in rows]
        current += [names[label] for label in labels[rows]]
        parts.append(_features(cache, split, rows))
    return Unlabelled(ids, torch.cat(parts), current)


def all_images(cache: FeatureCache, other: FeatureCache) -> Unlabelled:
    """All images of another cache, whose labels are not looked at.

    Raises
    ------
    CacheMismatchError
        If it is of another encoder. The difference is named.
    """
    check_pool_encoder(cache, other)
    ids = [image for split in other.counts for image in other.ids(split)]
    x = torch.cat([_features(other, split) for split in other.counts])
    return Unlabelled.elsewhere(ids, x)


def encoded_images(
    cache: FeatureCache, encoder: Encoder, images: Sequence[ImageSource], options: LoaderOptions
) -> tuple[Unlabelled, list[str]]:
    """Files that are encoded now.

    Returns
    -------
    Unlabelled
        Those that can be read.
    list of str
        Of the others, each with the reason.

    Raises
    ------
    CacheMismatchError
        If the encoder is not that of the cache, or the cache holds boxes.
    DatasetError
        If none can be read.
    """
    if cache.noun == "box":
        raise CacheMismatchError(
            f"'{cache.path}' holds boxes, beside which whole images are no choice; give pool= a "
            "cache of boxes without labels, such as that of 'cafe extract --proposals'."
        )
    check_recorded_encoder(record_of_cache(cache), encoder)
    ids, parts, unread = list[str](), list[Tensor](), list[str]()
    for batch in encode_images(encoder, images, options):
        pairs = list(zip(batch.names, batch.reasons, strict=True))
        ids += [unescape_bytes(name) for name, reason in pairs if not reason]
        unread += [f"{name}: {reason}" for name, reason in pairs if reason]
        parts.append(batch.inputs)
    if not ids:
        raise DatasetError(f"none of {len(unread)} images could be read; the first: {unread[0]}.")
    return Unlabelled.elsewhere(ids, torch.cat(parts)), unread


def leave_out_known(pool: Unlabelled, known: Known) -> Unlabelled:
    """The images of a pool that are no copy of a labelled one."""
    labelled = known.labelled.unit
    if not len(labelled):
        return pool
    blocks = torch.split(pool.x, max(1, _BLOCK // len(labelled)))
    is_new = torch.cat([~are_copies(block, labelled) for block in blocks])
    rows = is_new.nonzero().squeeze(1).tolist()
    ids, current = ([texts[row] for row in rows] for texts in (pool.ids, pool.current))
    return Unlabelled(ids, pool.x[rows], current)


def suggest_labels(
    pool: Unlabelled, known: Known, budget: int, *, strategy: Strategy = "auto", seed: int = 0
) -> list[Suggestion]:
    """The images to label next, the most valuable first, with the class that the head would say.

    Parameters
    ----------
    pool, known
        Images to choose from, and what is known so far.
    budget, strategy, seed
        As of `cafe.next_images`.

    Raises
    ------
    DatasetError
        If no image is left to label.
    """
    if not pool.ids:
        raise DatasetError("every one of these images is labelled in the cache already.")
    labelled, text = known
    rows = next_images(pool.x, budget, labelled=labelled, text=text, strategy=strategy, seed=seed)
    answers = class_answers(pool.x[torch.from_numpy(rows)], labelled, text)
    return list(_suggestions(pool, rows.tolist(), answers, text.names))


def _suggestions(
    pool: Unlabelled, rows: list[int], answers: np.ndarray | None, names: Sequence[str]
) -> Iterator[Suggestion]:
    for place, row in enumerate(rows):
        best = int(answers[place].argmax()) if answers is not None else 0
        said, sure = ("", 0.0) if answers is None else (names[best], float(answers[place, best]))
        yield Suggestion(pool.ids[row], PROBLEM, pool.current[row], said, min(1.0, sure))


def _features(cache: FeatureCache, split: str, rows: np.ndarray | None = None) -> Tensor:
    return torch.from_numpy(cache.read(split, rows, views=False, dtype=np.float32).features)
