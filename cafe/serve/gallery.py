"""The images of a model's cache, and unlabelled ones beside them: names, labels, features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cafe.curation.unlabelled import encoded_images
from cafe.datasets.list_folder import images_below
from cafe.datasets.text_files import distinct_names
from cafe.encoders.encoder import Encoder
from cafe.errors import InputError
from cafe.extract.encode import LoaderOptions
from cafe.features.task import class_text, image_groups
from cafe.features.tensors import ClassText, Features
from cafe.progress import Progress
from cafe.store import FeatureCache

UNLABELLED = "unlabelled"
"""The split of images without a label; their label is -1."""


class Gallery:
    """All images, a row each: those of the cache split by split, then the unlabelled ones.

    Parameters
    ----------
    cache : FeatureCache

    Attributes
    ----------
    ids : list of str
        As the cache names them; of unlabelled ones the path. (N,)
    splits : list of str
        (N,)
    labels : Tensor
        Class indices as the dataset has them, -1 where there is none. (N,) int64
    x : Tensor
        Raw features. (N, D) float32
    groups : ndarray or None
        The image that each box lies on; None where items are images. (N,)
    names : tuple of str
        Of the classes, as they are shown. (C,)
    sentences : list of list of str
        What the text tower was told of each class. (C,)
    text : ClassText
    splits_ : tuple of str
        Names of the splits that are fitted on.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self.ids, self.splits = list[str](), list[str]()
        labels, features = [], []
        for split in cache.counts:
            self.ids += cache.ids(split)
            self.splits += [split] * cache.counts[split]
            read = cache.read(split, views=False, dtype=np.float32)
            labels.append(torch.from_numpy(read.labels))
            features.append(torch.from_numpy(read.features))
        self.groups = image_groups(cache)
        self.splits_ = ("train", *(split for split in cache.counts if split != "train"))
        self.labels, self.x = torch.cat(labels), torch.cat(features)
        self.names = distinct_names(cache.header.class_names)
        self.sentences = [[text for text in each if text] for each in cache.header.sentences]
        self.text: ClassText = class_text(cache.header)

    def __len__(self) -> int:
        return len(self.ids)

    def add_unlabelled(
        self, folder: Path, encoder: Encoder, progress: Progress | None = None
    ) -> list[str]:
        """Encode the images below a folder; returns those that cannot be read, with the reason.

        Raises
        ------
        CafeError
            If there is no folder, or no image in it that can be read.
        """
        if not folder.is_dir():
            raise InputError(f"no folder '{folder}' of unlabelled images; check unlabelled=.")
        ids = images_below(folder)
        if not ids:
            raise InputError(f"'{folder}' has no image; unlabelled= is a folder of images.")
        paths = [(folder / name).as_posix() for name in ids]
        options = LoaderOptions(progress=progress)
        found, unread = encoded_images(self.cache, encoder, paths, options)
        self.ids += found.ids
        self.splits += [UNLABELLED] * len(found.ids)
        self.labels = torch.cat([self.labels, torch.full((len(found.ids),), -1)])
        self.x = torch.cat([self.x, found.x])
        if self.groups is not None:  # a new image is a group of its own
            self.groups = np.append(self.groups, self.groups.max() + 1 + np.arange(len(found.ids)))
        return unread

    def split_features(self, y: Tensor) -> dict[str, Features]:
        """The labelled images as splits to fit on; new ones are of the training images.

        Parameters
        ----------
        y : Tensor
            Labels as they are now, -1 where there is none. (N,)
        """
        everything = Features(self.x, y, groups=self.groups)
        return {split: everything[rows] for split, rows in self._rows(y).items()}

    def labelled_rows(self, y: Tensor) -> Tensor:
        """The rows of `split_features`, in their order when joined."""
        return torch.cat(list(self._rows(y).values()))

    def _rows(self, y: Tensor) -> dict[str, Tensor]:
        """Rows of the labelled images of each split."""
        wanted = np.array(["train" if s == UNLABELLED else s for s in self.splits])
        known = (y >= 0).numpy()
        rows = {s: torch.from_numpy(np.flatnonzero(known & (wanted == s))) for s in self.splits_}
        return {split: each for split, each in rows.items() if len(each)}
