"""`cafe.Model`: a head that was fitted on all images of a dataset, with its encoder, as a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.text_files import distinct_names
from cafe.encoders.encoder import Encoder
from cafe.encoders.recorded import load_recorded_encoder
from cafe.errors import CafeError, raise_as
from cafe.extract.image_sources import Images
from cafe.inference.head_encoders import record_of_head
from cafe.inference.model_card import write_model_card
from cafe.inference.predictor import Predictor
from cafe.results.model_record import ModelRecord
from cafe.results.saved_head import SavedHead, load_head
from cafe.results.saved_model import (
    check_model_folder,
    head_of_model,
    read_model,
    save_model,
)
from cafe.store.files import lock_file
from cafe.store.repr_mixin import ReprMixin, name_some


@dataclass(repr=False, eq=False)
class Model(ReprMixin):
    """A classifier of images, as `cafe.train` and `cafe.load_model` give it.

    Parameters
    ----------
    saved : SavedHead
        The head, which was fitted on all labelled images.
    record : ModelRecord
        What is known of it: `estimate`, `images`, `encoder`, `calibration`, `command`, ...
    folder : Path or None
        Where it is saved.
    encoder : Encoder or None
        The encoder; None loads it by its recorded names when the first image comes.
    was_there : bool
        Whether `cafe.train` found it, made of the same images in the same way, and did nothing.

    Examples
    --------
    >>> model = cafe.train("digits", method="lda-prior")
    >>> model.classes_[:3].tolist(), model.record.estimate.accuracy > 90
    (['zero', 'one', 'two'], True)
    >>> model.predict("photos").tolist()
    ['three']
    >>> model.predict_proba("photos").shape
    (1, 10)
    """

    saved: SavedHead
    record: ModelRecord
    folder: Path | None = None
    encoder: Encoder | None = None
    was_there: bool = False

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes: the columns of `predict_proba`. (C,)"""
        return np.array(distinct_names(self.record.class_names))

    @cached_property
    def predictor(self) -> Predictor:
        """Head and encoder, for answers one by one with their reasons; see `cafe.Predictor`."""
        encoder = self.encoder or load_recorded_encoder(record_of_head(self.saved))
        return Predictor(self.saved, encoder)

    def predict(self, images: Images, **options: Any) -> NDArray[np.object_]:
        """The likeliest class of each image.

        Parameters
        ----------
        images : path, image, array, tensor, or iterable of these
            As `cafe.Extractor.encode` takes them.
        **options
            `on_error`, `batch_size`, `workers` and `progress`, as of `Predictor.predict_proba`.

        Returns
        -------
        ndarray
            Names; None for an image that cannot be read (`predictor.predict` says why). (N,)

        Raises
        ------
        CafeError
            If there is no image, or the encoder cannot be had.
        """
        p = self.predict_proba(images, **options)
        readable = ~np.isnan(p[:, 0])
        labels: NDArray[np.object_] = np.full(len(p), None, object)
        labels[readable] = self.classes_[p[readable].argmax(axis=1)]
        return labels

    def predict_proba(self, images: Images, **options: Any) -> NDArray[np.float32]:
        """Calibrated probabilities in the order of `classes_`; arguments as of `predict`.

        Returns
        -------
        ndarray
            A row of NaN for an image that cannot be read. (N, C)
        """
        return self.predictor.predict_proba(images, **options)

    def save(self, folder: Path | str) -> Path:
        """Write the folder that `cafe predict` and `cafe.load_model` take.

        Parameters
        ----------
        folder : Path or str
            A model of the same dataset that is there is replaced, in one step.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        CafeError
            If something else is there, or the folder cannot be written; what is there stays.
        """
        path = Path(folder).resolve()  # a link to a folder is written where it points
        with raise_as(CafeError, f"cannot write '{folder}'", "choose another"), lock_file(path):
            return self.save_locked(Path(folder))

    def save_locked(self, folder: Path) -> Path:
        """Save while the caller holds the lock of the folder; see `save`."""
        check_model_folder(folder, self.record.dataset)
        path, head, zero_shot = folder.resolve(), self.saved.head, self.saved.zero_shot
        card = write_model_card(self.saved, path.name)
        self.record = save_model(path, self.record, head, zero_shot, card)
        self.folder = folder
        return folder

    def _title(self) -> str:
        return f"Model {self.record.method} of {self.record.dataset}, {self.record.encoder.name}"

    def _rows(self) -> list[list[str]]:
        record, estimate = self.record, self.record.estimate
        return [
            ["classes", name_some(self.classes_.tolist())],
            ["images", f"{sum(record.images):,}"],
            ["accuracy", estimate.words if estimate else "not known"],
            ["folder", str(self.folder or "not saved")],
        ]


def load_model(
    path: Path | str,
    *,
    model: str | None = None,
    pretrained: str | None = None,
    device: str = "auto",
) -> Model:
    """Load a model that `cafe.train` or `Model.save` wrote; no code in it is run.

    Parameters
    ----------
    path : Path or str
        The folder.
    model, pretrained : str, optional
        Where the encoder is, if it came from a folder or a file. None takes the recorded names,
        and loads it when the first image comes.
    device : str
        "auto", "cpu", "cuda", "cuda:N".

    Returns
    -------
    Model

    Raises
    ------
    CafeError
        If it is no model, its files do not belong together, or the encoder is another one.

    Examples
    --------
    >>> made = cafe.train("digits", method="gda", output="digits-model")
    >>> cafe.load_model("digits-model").predict("photos/three.png").tolist()
    ['three']
    """
    folder = Path(path)
    record = read_model(folder)
    saved = load_head(head_of_model(folder))
    made = Model(saved, record, folder)
    if (model, pretrained, device) != (None, None, "auto"):
        origin = record_of_head(saved)
        made.encoder = load_recorded_encoder(origin, model, pretrained, device=device)
    return made
