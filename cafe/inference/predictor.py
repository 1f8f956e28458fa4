"""New images -> labels: the one place where an encoder and a saved head meet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from cafe.devices import resolve_device
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.errors import CacheMismatchError, InputError, UnknownNameError, WeightsError
from cafe.features.splits import Shots
from cafe.inference.images import (
    EncodedImages,
    ImageSource,
    LoaderOptions,
    Progress,
    encode_images,
    list_images,
)
from cafe.inference.neighbours import Neighbour, NeighbourIndex
from cafe.inference.prediction import ClassScore, Prediction, class_scores
from cafe.results.runs import HeadSelector, find_head
from cafe.results.saved_head import SavedHead, load_head
from cafe.store.key import differences


class Predictor:
    """A saved head with the encoder that it was fitted on.

    Parameters
    ----------
    saved : SavedHead
    encoder : Encoder
        Must be the one whose features the head was fitted on.
    evidence : NeighbourIndex, optional
        The training images, for explanations.

    Raises
    ------
    InputError
        If the head was fitted on imported features: nobody knows their encoder.
    CacheMismatchError
        If the encoder is another one; the difference is named.

    Examples
    --------
    >>> predictor = cafe.Predictor.load("runs/mine")
    >>> for found in predictor.predict("photos"):
    ...     print(found.image, found.label)
    photos/three.png three
    """

    def __init__(
        self, saved: SavedHead, encoder: Encoder, neighbours: NeighbourIndex | None = None
    ) -> None:
        check_encoder(saved, encoder)
        self.saved, self.encoder, self.neighbours = saved, encoder, neighbours

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        method: str | None = None,
        shots: Shots | None = None,
        seed: int | None = None,
        model: str | None = None,
        pretrained: str | None = None,
        device: str = "auto",
    ) -> Predictor:
        """Load a head of a run, and its encoder.

        Parameters
        ----------
        run : Path or str
            The folder of a run, a folder of runs (the newest counts), or a head's file.
        method, shots, seed : optional
            Which head of the run; see `cafe.results.runs.HeadSelector`.
        model, pretrained : str, optional
            Where the encoder is, if it came from a folder or a file; None takes what the run names.
        device : str
            "auto", "cpu", "cuda", "cuda:N".

        Raises
        ------
        CafeError
            If there is no such head, or its encoder cannot be had.
        """
        saved = load_head(find_head(run, HeadSelector(method, shots, seed)))
        return cls(saved, encoder_of(saved, model, pretrained, device=device))

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        top: int = 3,
        unknown_below: float = 0.0,
        explain: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Prediction]:
        """Say what is on images, in their order, a batch at a time.

        Parameters
        ----------
        images : path, image, or iterable of these
            Files, folders (all images in them, sorted) and images of Pillow.
        top : int
            How many of the likeliest classes to give.
        unknown_below : float
            A best class less probable than this is no answer.
        explain : bool
            Add zero-shot CLIP's answer and, with evidence, the nearest training images.
        batch_size : int, optional
            Images per forward pass; None is 32, or 256 on CUDA.
        workers : int, optional
            Threads that decode; None takes one per core, 16 at most.
        progress : callable, optional
            Called with a stage, the images done and the images in all.

        Returns
        -------
        iterator of Prediction
            One for every image, those that cannot be read with the reason.

        Raises
        ------
        InputError
            If an argument cannot be meant; nothing is read.
        """
        if top < 1:
            raise InputError(f"top must be at least 1; got {top}.")
        if not 0 <= unknown_below <= 1:
            raise InputError(f"unknown-below must be a probability, 0 to 1; got {unknown_below}.")
        options = LoaderOptions(batch_size, workers, progress, self.saved.pool)
        seen = encode_images(self.encoder, list_images(images), options)
        return chain.from_iterable(self._judge(s, top, unknown_below, explain) for s in seen)

    def _judge(
        self, seen: EncodedImages, top: int, unknown_below: float, explain: bool
    ) -> list[Prediction]:
        """What is said of a batch."""
        x, saved = seen.features, self.saved
        best: list[tuple[ClassScore, ...]] = []
        if len(x):
            best = class_scores(saved.probabilities(x), saved.class_names, top, saved.scores(x))
        alone = x[:, 0] if x.ndim == 3 else x  # without the map
        rows = zip(best, *self._explanations(alone, explain), strict=True)
        return [
            Prediction(name, reason=reason)
            if reason
            else Prediction(name, *next(rows), unknown_below=unknown_below)
            for name, reason in zip(seen.names, seen.reasons, strict=True)
        ]

    def _explanations(
        self, x: Tensor, explain: bool
    ) -> tuple[Iterable[ClassScore | None], Iterable[tuple[Neighbour, ...]]]:
        text, neighbours = self.saved.zero_shot, self.neighbours
        zero_shot: Iterable[ClassScore | None] = [None] * len(x)
        nearest: Iterable[tuple[Neighbour, ...]] = [()] * len(x)
        if explain and text is not None:
            plain = SavedHead(text, self.saved.about, text)
            scores = plain.scores(x)
            likely = torch.softmax(text.logits(x), dim=-1)
            zero_shot = [one for (one,) in class_scores(likely, plain.class_names, 1, scores)]
        if explain and neighbours is not None:
            nearest = neighbours.nearest(x)
        return zero_shot, nearest


def encoder_of(
    saved: SavedHead,
    model: str | None = None,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
) -> Encoder:
    """Load the encoder that a head was fitted on.

    Parameters
    ----------
    saved : SavedHead
    model, pretrained : str, optional
        Where it is, if it came from a folder or a file; None takes what the head names.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    precision : str, optional
        None takes that of the cached features.

    Raises
    ------
    InputError
        If the head was fitted on imported features.
    WeightsError
        If the encoder cannot be had.
    """
    named = _named(saved)
    given = model is not None or pretrained is not None
    chosen = precision or str(saved.about["cache_key"].get("precision", "auto"))
    if chosen == "fp16" and resolve_device(device).type == "cpu":
        chosen = "fp32"  # a CPU has no fp16; the features differ in their last bits only
    try:
        return load_encoder(
            model or named["model"],
            pretrained if given else named["pretrained"],
            device=device,
            precision=chosen,
        )
    except (UnknownNameError, WeightsError) as error:
        if given:
            raise
        raise WeightsError(
            f"the run's encoder '{named['model']}' with weights '{named['pretrained']}' is not "
            f"found by name ({error}) If it is a folder or a file, name it with --model and "
            "--pretrained."
        ) from error


def _named(saved: SavedHead) -> dict[str, str]:
    named: dict[str, str] = saved.about["encoder"]
    if not named.get("weights_sha256"):
        raise InputError(
            f"the head was fitted on imported features of '{saved.about['dataset']}', and no "
            "encoder is known to give the same; extract the images with 'cafe extract' and fit "
            "again, or use cafe.load_head on features."
        )
    return named


def check_encoder(saved: SavedHead, encoder: Encoder) -> None:
    """Refuse an encoder that is not the one whose features a head was fitted on.

    Raises
    ------
    CacheMismatchError
        If weights, architecture or preprocess differ; the difference is named.
    """
    named, key = _named(saved), saved.about["cache_key"]
    config = json.loads(json.dumps(dict(sorted(encoder.preprocess.config.items()))))
    given = {
        "weights_sha256": encoder.weights_sha256,
        "architecture_sha256": encoder.architecture_sha256,
        "preprocess": config,
    }
    different = differences(given, {part: key.get(part) for part in given})
    different.sort(key=lambda part: not part.startswith("weights"))  # other weights say it all
    if different:
        raise CacheMismatchError(
            f"the head was fitted on features of another encoder than this '{encoder.model}': "
            f"{different[0]}. Give that of the run ('{named['model']}', weights "
            f"'{named['pretrained']}') with --model and --pretrained, or extract and fit again."
        )
