"""Images whose features are in a cache, as a saved head takes them: nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cafe.errors import CacheMismatchError, InputError, escape_bytes
from cafe.extract.encode import LoaderOptions
from cafe.extract.encode_images import EncodedImages
from cafe.features.task import StoredFeatures
from cafe.results.saved_head import SavedHead
from cafe.store import FeatureCache
from cafe.store.key import encoder_difference
from cafe.store.paths import cache_name

_ROWS = 256  # images of a batch; some have fifty views, or maps


@dataclass(frozen=True)
class CachedImages:
    """The images of one split of a cache; their labels are not read.

    Attributes
    ----------
    cache : FeatureCache
    split : {"train", "val", "test"}

    Raises
    ------
    InputError
        If there is no such split.
    """

    cache: FeatureCache
    split: str = "test"

    def __post_init__(self) -> None:
        if self.split not in self.cache.counts:
            raise InputError(
                f"{cache_name(self.cache.path)} has no split '{self.split}'; it has "
                f"{', '.join(self.cache.counts)}."
            )

    def __len__(self) -> int:
        return self.cache.counts[self.split]

    def batches(self, saved: SavedHead, options: LoaderOptions) -> Iterator[EncodedImages]:
        """What the head takes of them, with their augmented views where there are some.

        Raises
        ------
        CacheMismatchError
            If the features are of another encoder. The difference is named.
        """
        self._check(saved)
        stored = StoredFeatures(self.cache, self.split)
        size = options.batch_size or _ROWS
        for start in range(0, len(self), size):
            some = stored[torch.arange(start, min(start + size, len(self)))]
            names = self.cache.ids(self.split, slice(start, start + size))
            inputs = some.inputs(**saved.head.takes).float()
            reasons = [""] * len(names)
            yield EncodedImages([*map(escape_bytes, names)], reasons, inputs, some.views)
            if options.progress is not None:
                options.progress("images", start + len(names), len(self))

    def _check(self, saved: SavedHead) -> None:
        name, key = cache_name(self.cache.path), saved.about["cache_key"]
        if "encoders" in key:
            raise InputError(
                f"the head takes the features of {len(key['encoders'])} encoders, and {name} has "
                "those of one; name images."
            )
        header, own = self.cache.header, saved.about["encoder"]
        names = f"{header.model}.{header.pretrained}", f"{own['model']}.{own['pretrained']}"
        different = encoder_difference(header.key, names[0], key, names[1])
        if saved.width not in (None, self.cache.width):
            different = f"its features are {self.cache.width} wide, the head's {saved.width}"
        if different:
            raise CacheMismatchError(
                f"{name} is not of the encoder that the head was fitted on: {different}; "
                "extract these images with the head's encoder."
            )
