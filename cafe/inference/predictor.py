"""New images -> labels, with a saved head behind its encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import distinct_names
from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import check_recorded_encoder, decoding_as
from cafe.errors import InputError, counted
from cafe.extract.encode import LoaderOptions
from cafe.extract.encode_images import EncodedImages, OnError, encode_images, stack_rows
from cafe.extract.image_sources import Images, list_images
from cafe.features.pool import Pool
from cafe.features.splits import Shots as ShotCount
from cafe.inference.adapt_to_pool import Shots
from cafe.inference.adaptation import Adaptation
from cafe.inference.answers import Answers
from cafe.inference.cached_images import CachedImages
from cafe.inference.head_encoders import (
    join_encoded,
    load_encoders,
    record_of_head,
    records_of_head,
)
from cafe.inference.neighbours import NeighbourIndex
from cafe.inference.prediction import Prediction
from cafe.progress import Progress
from cafe.results.runs import HeadSelector, find_head
from cafe.results.saved_head import SavedHead, load_head
from cafe.store.repr_mixin import ReprMixin
from cafe.study.pool import PoolLike

T = TypeVar("T")


@dataclass(repr=False, eq=False)
class Predictor(ReprMixin):
    """A saved head with the encoder that it was fitted on.

    Parameters
    ----------
    saved : SavedHead
    encoder : Encoder or tuple of Encoder
        The encoder whose features the head was fitted on; it decodes files as was done for these.
        Of a head over several encoders each of them, in the order of its features. `()`, which
        is none, where only images of a cache are asked about.
    neighbours : NeighbourIndex, optional
        The training images, for explanations.
    adaptation : Adaptation, optional
        How answers change with the images that come; see `cafe.inference.adaptation`.
    shots : Shots, optional
        The training images, for adapting to a pool; `load` looks for them if it is told to.

    Raises
    ------
    InputError
        If the head was fitted on imported features: their encoder is not known.
    CacheMismatchError
        If the encoder is another one. The difference is named.

    Examples
    --------
    >>> predictor = cafe.Predictor.load("runs/mine")
    >>> for prediction in predictor.predict("photos"):
    ...     print(prediction.image, prediction.label)
    photos/three.png three
    """

    saved: SavedHead
    encoder: Encoder | tuple[Encoder, ...]
    neighbours: NeighbourIndex | None = None
    adaptation: Adaptation | None = None
    shots: Shots | None = None

    def _title(self) -> str:
        return self.saved._title().replace("SavedHead", "Predictor", 1)

    def _rows(self) -> list[list[str]]:
        device = str(self._encoders[0].device) if self._encoders else "no encoder"
        return [*self.saved._rows(), ["device", device]]

    def __post_init__(self) -> None:
        if self.encoder == ():
            return
        records, decoding = records_of_head(self.saved), []
        if len(records) != len(self._encoders):
            raise InputError(
                f"the head takes {counted(len(records), 'encoder')}; got {len(self._encoders)}."
            )
        for record, encoder in zip(records, self._encoders, strict=True):
            check_recorded_encoder(record, encoder)
            decoding.append(decoding_as(record, encoder))
        self.encoder = tuple(decoding) if len(decoding) > 1 else decoding[0]

    @property
    def only_encoder(self) -> Encoder:
        """The encoder of a head over one; `InputError` where there are several."""
        record_of_head(self.saved)
        return self._encoders[0]

    @property
    def _encoders(self) -> tuple[Encoder, ...]:
        return self.encoder if isinstance(self.encoder, tuple) else (self.encoder,)

    @property
    def _answers(self) -> Answers:
        return Answers(self.saved, self.neighbours, self.adaptation)

    def _options(
        self, batch_size: int | None, workers: int | None, progress: Progress | None
    ) -> LoaderOptions:
        """How images are encoded for the head."""
        before = self.saved.head.pre_projection
        return LoaderOptions(batch_size, workers, progress, self.saved.pool, before)

    def _encode(
        self, images: Images | CachedImages, options: LoaderOptions
    ) -> Iterator[EncodedImages]:
        """The images under every encoder, a batch at a time; those of a cache as it has them."""
        if isinstance(images, CachedImages):
            return images.batches(self.saved, options)
        if not self._encoders:
            raise InputError("these images must be encoded, and there is no encoder; give it.")
        sources, first = list_images(images), self._encoders[0]
        quiet = replace(options, progress=None)  # the first tells for all
        batches = (
            encode_images(encoder, sources, options if encoder is first else quiet)
            for encoder in self._encoders
        )
        return map(join_encoded, zip(*batches, strict=True))

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        method: str | None = None,
        shots: ShotCount | None = None,
        seed: int | None = None,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
        adapting: bool = False,
    ) -> Predictor:
        """Load a head of a run, and its encoder.

        Parameters
        ----------
        run : Path or str
            The folder of a run, a folder of runs (the newest counts), or a head's file.
        method, shots, seed : optional
            Which head of the run; see `cafe.results.runs.HeadSelector`.
        model, pretrained : str, optional
            Where the encoder is, if it came from a folder or a file. None takes the run's names.
        device : str
            "auto", "cpu", "cuda", "cuda:N".
        adapting : bool
            Look for the cache that the head was fitted on, which `predict(pool=...)` needs.

        Raises
        ------
        CafeError
            If there is no such head, or its encoder cannot be loaded.
        """
        file = find_head(run, HeadSelector(method, shots, seed))
        saved = load_head(file)
        fitted_on = Shots.find(saved, file) if adapting else None
        encoder = load_encoders(saved, model, pretrained, device=device)
        return cls(saved, encoder, shots=fitted_on)

    def predict(
        self,
        images: Images | CachedImages,
        *,
        top: int = 3,
        unknown_below: float = 0.0,
        explain: bool = False,
        pool: PoolLike | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Iterator[Prediction]:
        """Classify images, in their order, a batch at a time.

        Parameters
        ----------
        images : path, image, array, tensor, iterable of these, or CachedImages
            As `cafe.Extractor.encode` takes them: files, folders (all images in them, sorted),
            images of Pillow, arrays and tensors. `CachedImages` are those of a cache.
        top : int
            How many of the most probable classes to give.
        unknown_below : float
            An image whose best class is less probable than this gets no label.
        explain : bool
            Add zero-shot CLIP's answer and, with `neighbours`, the nearest training images.
        pool : "self", Pool, FeatureCache, Path or str, optional
            Images without labels that the head is adapted to first: "self" is these very images,
            which are then all encoded before the first answer; else as of `cafe.fit`. It needs
            `shots`.
        batch_size : int, optional
            Images per forward pass; None is 32, or 256 on CUDA.
        workers : int, optional
            Threads that decode; None takes one per core, up to 16.
        progress : callable, optional
            Called with a stage, the images done and the images in all.
        note : callable, optional
            Told in a sentence what the head was adapted to.

        Returns
        -------
        iterator of Prediction
            One for every image; for an image that cannot be read, with the reason.

        Raises
        ------
        InputError
            If an argument is out of range; nothing is read.
        """
        if top < 1:
            raise InputError(f"top must be at least 1; got {top}.")
        if not 0 <= unknown_below <= 1:
            raise InputError(f"unknown_below={unknown_below} must be a probability, 0 to 1.")
        options = self._options(batch_size, workers, progress)
        batches = self._encode(images, options)
        how = (top, unknown_below, explain)
        if pool is None or pool == "none":
            found = (self._answers.predictions(batch, *how) for batch in batches)
            return self._kept(chain.from_iterable(found))
        if self.adaptation is not None:
            raise InputError("an adaptation and a pool are two ways to adapt; give one.")
        if self.shots is None:
            raise InputError("a pool needs the head's shots; load with adapting=True.")
        loaded = None if pool == "self" else self.shots.load_pool(pool)
        return self._adapted(batches, self.shots, loaded, how, note)

    def _adapted(
        self,
        batches: Iterable[EncodedImages],
        shots: Shots,
        pool: Pool | None,
        how: tuple[int, float, bool],
        note: Callable[[str], None] | None,
    ) -> Iterator[Prediction]:
        """Classify by the head as it is adapted to a pool; None are the images themselves."""
        saved, batches = shots.adapt_to(batches, pool, note)
        answers = replace(self._answers, saved=saved)
        for batch in batches:
            yield from answers.predictions(batch, *how)

    def predict_proba(
        self,
        images: Images,
        *,
        on_error: OnError = "skip",
        batch_size: int | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Probabilities of all classes, in the order of `classes_`.

        Parameters
        ----------
        images, batch_size, workers, progress
            As of `predict`.
        on_error : {"skip", "fail"}
            What to do with an image that cannot be read: log it and give a row of NaN, or stop.

        Returns
        -------
        ndarray
            Calibrated where the head is; rows sum to 1. (N, C) float32

        Raises
        ------
        ImageError
            If an image cannot be read and `on_error` is "fail".
        """
        options = self._options(batch_size, workers, progress)
        batches = self._encode(images, options)
        probabilities, classes = self._answers.probabilities, len(self.classes_)
        return stack_rows(self._kept(batches), probabilities, classes, on_error)

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes, as `predict` shows them. (C,)"""
        return np.array(distinct_names(self.saved.class_names))

    def _kept(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; what adaptation learns meanwhile is kept."""
        with self._answers.keeping():
            yield from items
