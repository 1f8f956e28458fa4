"""One model that is served: its answers, its images, what a person corrects, and new fits."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cafe.curation.next_images import next_images
from cafe.curation.suggestions import Suggestion
from cafe.errors import BusyError, CafeError, InputError, counted, one_line
from cafe.features.tensors import Features
from cafe.inference.fitted_model import model_of
from cafe.inference.model import Model
from cafe.inference.neighbours import NeighbourIndex
from cafe.inference.prediction import Prediction
from cafe.inference.predictor import Predictor
from cafe.methods.base import Context
from cafe.methods.head import Head
from cafe.results.saved_head import SavedHead
from cafe.serve.corrections import CONFIRMED, CORRECTED, NEW, Corrections
from cafe.serve.gallery import Gallery
from cafe.serve.history import FitNote, note_fit, read_history
from cafe.serve.looks import Look, look_at
from cafe.serve.uploads import refusal

MOST_NEXT = 200
"""Images that are chosen to be labelled next."""

CORRECTIONS = "corrections.csv"
"""In the model's folder."""


class Session:
    """A served model.

    Parameters
    ----------
    model : Model
        Saved; its encoder is loaded here.
    gallery : Gallery or None
        Its images; None serves predictions alone.
    context : Context
        Where it is fitted again.
    """

    def __init__(self, model: Model, gallery: Gallery | None, context: Context) -> None:
        assert model.folder is not None  # noqa: S101  for mypy: `load_model` says where
        self.folder = model.folder
        self.model, self.gallery, self._context = model, gallery, context
        self.corrections = Corrections(self.folder / CORRECTIONS)
        self.look: Look | None = None
        self.busy, self.error, self._closed = "", "", False
        self.answers = False
        """Whether a new head answers already, while it is judged."""
        self.version, self.fits = 0, 0
        """Grow with each change, and with each look."""
        self._encoding, self._changing = threading.Lock(), threading.Lock()
        self._worker: threading.Thread | None = None
        self._next = torch.zeros(0, dtype=torch.int64)
        self._rows: dict[str, list[int]] = {}
        if gallery is not None:
            for row, name in enumerate(gallery.ids):
                self._rows.setdefault(name, []).append(row)
        self._predictor = self._saved = self._new_predictor(model.predictor)
        self.trained = self.labels()
        """Labels that the head was fitted on, as far as is known."""

    def _new_predictor(self, predictor: Predictor) -> Predictor:
        gallery, neighbours = self.gallery, None
        if gallery is not None:
            y = self.labels()
            rows = (y >= 0).nonzero().squeeze(1).tolist()
            images = [(str(row), gallery.names[int(y[row])]) for row in rows]
            neighbours = NeighbourIndex(gallery.x[rows], images)
        return Predictor(predictor.saved, predictor.only_encoder, neighbours)

    # predictions

    def predict(self, images: Sequence[bytes], top: int = 5) -> list[Prediction]:
        """Predictions for image files; of one that cannot be read, the reason."""
        reasons = [refusal(image) for image in images]
        good = [image for image, reason in zip(images, reasons, strict=True) if not reason]
        predictor = self._predictor
        with self._encoding:  # one batch at a time: memory stays bounded
            made = iter(predictor.predict(good, top=top, explain=True) if good else ())
            return [Prediction("", reason=r) if r else next(made) for r in reasons]

    # labels

    def labels(self) -> Tensor:
        """Labels as the dataset and the corrections have them, -1 where there is none. (N,)"""
        gallery = self.gallery
        if gallery is None:
            return torch.zeros(0, dtype=torch.int64)
        y, classes = gallery.labels.clone(), {n: c for c, n in enumerate(gallery.names)}
        for name, said in self.corrections.rows().items():
            if said.proposed in classes:
                for row in self._rows.get(name, ()):
                    y[row] = classes[said.proposed]
        return y

    def correct(self, changes: Mapping[int, int | None]) -> None:
        """Say the class of images, or take back what was said.

        Parameters
        ----------
        changes : mapping of int to int or None
            Row -> class; its own class confirms it, None takes back.

        Raises
        ------
        InputError
            If there is no such row or class; nothing is written.
        CafeError
            If the file cannot be written.
        """
        gallery, rows = self._gallery(), dict[str, Suggestion | None]()
        for row, label in changes.items():
            if not 0 <= row < len(gallery):
                raise InputError(f"no image {row}; there are {len(gallery):,}, from 0 on.")
            if label is not None and not 0 <= label < len(gallery.names):
                raise InputError(f"no class {label}; there are {len(gallery.names):,}, from 0 on.")
            old = int(gallery.labels[row])
            current = gallery.names[old] if old >= 0 else ""
            kind = NEW if old < 0 else CONFIRMED if label == old else CORRECTED
            name = gallery.ids[row]
            said = None if label is None else Suggestion(name, kind, current, gallery.names[label])
            rows[name] = said
        self.corrections.add(rows)
        self.version += 1

    def said(self, row: int) -> Suggestion | None:
        """What a person said of an image."""
        return self.corrections.rows().get(self._gallery().ids[row])

    def next_rows(self) -> Tensor:
        """Unlabelled images that are worth a label most; of labelled ones those to look at."""
        gallery = self._gallery()
        said = self.corrections.rows()
        open_ = torch.tensor([name not in said for name in gallery.ids], dtype=torch.bool)
        if len(self._next):
            return self._next[open_[self._next]]
        rows = open_.nonzero().squeeze(1)
        return self.look.least_sure(rows) if self.look is not None else rows

    def _choose_next(self, y: Tensor) -> Tensor:
        """Unlabelled images in the order in which a label is worth most."""
        gallery = self._gallery()
        fresh, known = (y < 0).nonzero().squeeze(1), (y >= 0).nonzero().squeeze(1)
        if not len(fresh):
            return fresh
        labelled = Features(gallery.x[known], y[known])
        text = None if gallery.text.equal else gallery.text
        chosen = next_images(gallery.x[fresh], MOST_NEXT, labelled=labelled, text=text)
        return fresh[torch.from_numpy(chosen)]

    def _gallery(self) -> Gallery:
        if self.gallery is None:
            raise InputError("the images of this model are not at hand.")
        return self.gallery

    # fits

    def start(self, *, save: bool) -> None:
        """Fit on the labels as they are now, in a thread, and look at every image.

        Parameters
        ----------
        save : bool
            Whether the new head takes the place of the served one, in its folder too.

        Raises
        ------
        BusyError
            If a fit is running.
        InputError
            If there are no images.
        """
        self._gallery()
        with self._changing:
            if self.busy:
                raise BusyError("it is being trained already; wait for it to end.")
            self.busy, self.error = "starting", ""
        self._worker = threading.Thread(target=self._work, args=(save,), daemon=True)
        self._worker.start()

    def join(self) -> None:
        """Wait for the fit that is running."""
        if self._worker is not None:
            self._worker.join()

    def close(self) -> None:
        """End the fit that is running: a thread in the middle of it would abort the process."""
        self._closed = True
        self.join()

    def _work(self, save: bool) -> None:
        try:
            self._fit(save)
        except Exception as error:
            self._predictor, self.error = self._saved, one_line(error)
        finally:
            self.busy, self.answers = "", False
            self.version += 1

    def _fit(self, save: bool) -> None:
        gallery, record, before, y = self._gallery(), self.model.record, self.look, self.labels()

        def progress(what: str, _done: int, _total: int) -> None:
            if self._closed:
                raise CafeError("the server was stopped.")
            self.busy = what

        on_head = self._answer_by if save else None
        look = look_at(gallery, y, record, self._context, progress, on_head)
        if save:
            self._take(look, self._changed(y))
            self.trained = y
        self._next = self._choose_next(y)
        self.look, self.fits = look, self.fits + 1
        if save:
            if before is not None and not read_history(self.folder):
                note_fit(self.folder, FitNote.of(before, None, self._changed(before.y)))
            note_fit(self.folder, FitNote.of(look, before, self._changed(y)))

    def _answer_by(self, head: Head) -> None:
        """Serve a new head that is not judged and saved yet, calibrated as the one before."""
        saved = self._predictor.saved
        about = {**saved.about, "method": head.method, "params": dict(head.params)}
        early = replace(self._predictor, saved=SavedHead(head, about, saved.zero_shot).cpu())
        self._predictor, self.answers = self._new_predictor(early), True

    def _changed(self, y: Tensor) -> int:
        return int((y != self._gallery().labels).sum())

    def _take(self, look: Look, changed: int) -> None:
        """Save a new head in the place of the one before, and serve it."""
        gallery, record = self._gallery(), self.model.record
        digest, remark = "", ""
        if changed:
            content = gallery.cache.content_sha256.encode() + look.y.numpy().tobytes()
            digest = hashlib.sha256(content).hexdigest()
            remark = f"{counted(changed, 'label')} differ from the cache's: see {CORRECTIONS}."
        made = model_of(
            look.fitted,
            gallery.cache,
            asked=record.asked,
            settings=record.settings,
            precision=self._context.products,
            command=record.command,
            earlier=record,
            content_sha256=digest,
            remark=remark,
        )
        made.encoder = self._predictor.only_encoder
        made.save(self.folder)
        self._predictor = self._saved = self._new_predictor(made.predictor)
        self.model = made
