"""What a method says of every image when it was fitted without it: the ground of all views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cafe.curation.label_errors import Judges, find_label_errors
from cafe.features.task import Task
from cafe.features.tensors import Features
from cafe.inference.fitted_model import has_own_test
from cafe.methods.base import Context
from cafe.methods.catalog import find_method
from cafe.methods.head import Head
from cafe.progress import Progress
from cafe.results.model_record import ModelRecord
from cafe.serve.gallery import Gallery
from cafe.study.fit_on_all import Fitted, fit_on_all

_TOP = 3  # classes that are kept of each image: what the keys 1 to 3 choose


@dataclass(frozen=True)
class Look:
    """A fit on all labelled images, and the answers for each of them by a head that left it out.

    Attributes
    ----------
    fitted : Fitted
    y : Tensor
        Labels that it was fitted on, -1 where there is none. (N,)
    top, p : Tensor
        The likeliest classes and their probabilities. (N, 3) or fewer classes
    own : Tensor
        Probability of the label; NaN where no head judged the image. (N,)
    errors : Tensor
        Rows whose label is probably wrong, as `cafe check` finds them, the surest first.
    """

    fitted: Fitted
    y: Tensor
    top: Tensor
    p: Tensor
    own: Tensor
    errors: Tensor

    @property
    def guess(self) -> Tensor:
        """The likeliest class. (N,)"""
        return self.top[:, 0]

    def accuracy(self, y: Tensor) -> float | None:
        """In percent of the judged images, by other labels than it was fitted on."""
        judged = ~self.own.isnan() & (y >= 0)
        return 100.0 * (self.guess == y)[judged].double().mean().item() if judged.any() else None

    def confusions(self, y: Tensor, most: int = 100) -> list[tuple[int, int, int]]:
        """Pairs of label and guess that differ, with the images of each, the most first."""
        wrong = (~self.own.isnan() & (y >= 0) & (self.guess != y)).nonzero().squeeze(1)
        pairs = zip(y[wrong].tolist(), self.guess[wrong].tolist(), strict=True)
        return [(*pair, count) for pair, count in Counter(pairs).most_common(most)]

    def suspects(self, y: Tensor) -> Tensor:
        """Rows whose guess is another class than the label: likely errors, then the surest."""
        wrong = (~self.own.isnan() & (y >= 0) & (self.guess != y)).nonzero().squeeze(1)
        surest = self.own[wrong] - self.p[wrong, 0]
        place = torch.full((len(y),), 1.0)  # behind all likely errors, which stand below -2
        place[self.errors] = torch.arange(len(self.errors)) / max(1, len(self.errors)) - 4
        return wrong[torch.where(place[wrong] < -2, place[wrong], surest).argsort(stable=True)]

    def least_sure(self, rows: Tensor) -> Tensor:
        """The same rows, those first whose two likeliest classes are nearest."""
        margin = self.p[rows, 0] - self.p[rows, 1]
        return rows[margin.argsort(stable=True)]


def look_at(
    gallery: Gallery,
    y: Tensor,
    record: ModelRecord,
    context: Context,
    progress: Progress | None = None,
    on_head: Callable[[Head], None] | None = None,
) -> Look:
    """Fit a model's method on all labelled images, and ask of each a head that left it out.

    Parameters
    ----------
    gallery : Gallery
    y : Tensor
        Labels, -1 where there is none. (N,)
    record : ModelRecord
        Of the model; says the method and its settings.
    context : Context
    progress : callable, optional
    on_head : callable, optional
        Given the head of all images, before it is judged.
    """
    encoder = record.encoder
    task = Task(
        record.dataset,
        encoder.model,
        encoder.pretrained,
        gallery.text,
        gallery.split_features(y),
    )
    known = find_method(record.method).settings()
    settings = {name: value for name, value in record.settings.items() if name in known}

    def fit(own_test: bool, on_head: Callable[[Head], None] | None = None) -> Fitted:
        return fit_on_all(
            task,
            (record.method,),
            settings,
            own_test=own_test,
            context=context,
            progress=progress,
            on_head=on_head,
        )

    fitted = fit(own_test=False, on_head=on_head)
    if has_own_test(gallery.cache) and {"train", "test"} <= set(task.splits):
        # training images are judged in folds; the estimate stays on the test split
        fitted = replace(fit(own_test=True), judges=fitted.judges)
    return _answers(gallery, y, fitted)


def _answers(gallery: Gallery, y: Tensor, fitted: Fitted) -> Look:
    count, classes = len(gallery), len(gallery.names)
    shape = (count, min(_TOP, classes))
    look = Look(
        fitted,
        y.clone(),
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape),
        torch.full((count,), torch.nan),
        torch.zeros(0, dtype=torch.int64),
    )
    labelled = gallery.labelled_rows(y)
    images = Features(gallery.x[labelled], y[labelled])
    judges = Judges(fitted.head.method, images, tuple(fitted.judges), classes)
    found = find_label_errors(judges, images.y)
    judged = torch.zeros(count, dtype=torch.bool)
    for head, out in fitted.judges:
        rows = labelled[out]
        judged[rows] = True
        _fill(look, rows, gallery, head, is_judge=True)
    _fill(look, (~judged).nonzero().squeeze(1), gallery, fitted.head, is_judge=False)
    return replace(look, errors=labelled[[error.row for error in found]])


def _fill(look: Look, rows: Tensor, gallery: Gallery, head: Head, *, is_judge: bool) -> None:
    """The answers of one head for some rows, a block of images at a time."""
    for part in torch.split(rows, max(1, (1 << 24) // len(gallery.names))):
        logits = head(gallery.x[part].to(head.device)).cpu()
        p = torch.softmax(logits / (look.fitted.calibration.temperature or 1.0), dim=-1)  # (n, C)
        look.p[part], look.top[part] = p.topk(look.p.shape[1], dim=-1)
        if is_judge:
            look.own[part] = p.gather(1, look.y[part, None]).squeeze(1)
