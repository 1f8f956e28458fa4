"""What the page shows of a session, as JSON values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cafe.errors import escape_bytes
from cafe.inference.prediction import Prediction
from cafe.serve.history import read_history
from cafe.serve.pictures import Pictures, class_names_in
from cafe.serve.session import MOST_NEXT, Session
from cafe.store.key import noun_of, say_items

View = Literal["all", "confused", "suspicious", "said", "next"]
"""Which images: of a class or all; of a pair of label and guess; likely label errors; those that a
person corrected or confirmed; those to label or to look at next."""


def state(session: Session, pictures: Pictures | None) -> dict[str, Any]:
    """What the page shows at all times, and a version that grows with each change."""
    record, gallery, look = session.model.record, session.gallery, session.look
    estimate = look.fitted.estimate if look else record.estimate
    known = estimate.words if estimate else "not known"
    y = session.labels()
    notes = read_history(session.folder)
    return {
        "dataset": record.dataset,
        "encoder": record.encoder.name,
        "method": record.method,
        "images": len(gallery) if gallery else 0,
        "fresh": int((gallery.labels < 0).sum()) if gallery else 0,
        "accuracy": estimate.accuracy if estimate else None,
        "estimate": say_items(known, noun_of(record.cache_key)),
        "history": [vars(note) for note in notes[-50:]],
        "said": len(session.corrections.rows()),
        "waiting": int((y != session.trained).sum()),
        "busy": session.busy,
        "answers": session.answers,
        "error": session.error,
        "version": session.version,
        "fits": session.fits,
        "looked": look is not None,
        "pictures": pictures is not None and pictures.at_hand,
        "file": escape_bytes(str(session.corrections.path)),
        "relabel": relabel_command(session, pictures),
    }


def relabel_command(session: Session, pictures: Pictures | None) -> str:
    """What applies the corrections to the dataset; "" for boxes, whose file a person edits."""
    if session.gallery is None or session.gallery.cache.noun == "box":
        return ""
    dataset = pictures.dataset if pictures is not None else None
    words = ["cafe", "relabel", str(session.corrections.path), str(dataset or "DATASET")]
    words += ["--yes"] if dataset is not None and dataset.is_dir() else []
    words += class_names_in(session.model.record.command)
    return escape_bytes(shlex.join(words))


def classes(session: Session) -> list[dict[str, Any]]:
    """Each class: its images, how many the held-out heads get right, what its texts say."""
    gallery, look = session.gallery, session.look
    if gallery is None:
        return [{"name": str(n), "images": 0} for n in session.model.classes_]
    y, count = session.labels(), len(gallery.names)
    images = torch.bincount(y[y >= 0], minlength=count).tolist()
    judged = right = [0] * count
    if look is not None:
        seen = ~look.own.isnan() & (y >= 0)
        judged = torch.bincount(y[seen], minlength=count).tolist()
        right = torch.bincount(y[seen & (look.guess == y)], minlength=count).tolist()
    return [
        {
            "name": name,
            "images": images[c],
            "judged": judged[c],
            "right": right[c],
            "texts": gallery.sentences[c][:3],
        }
        for c, name in enumerate(gallery.names)
    ]


def images(
    session: Session, view: View, label: int | None, guess: int | None, part: slice
) -> dict[str, Any]:
    """Some of the images of a view, and how many there are."""
    fits = session.fits
    rows = _rows(session, view, label, guess)
    some = items(session, rows[part].tolist())
    return {"total": len(rows), "start": part.start, "fits": fits, "items": some}


def _rows(session: Session, view: View, label: int | None, guess: int | None) -> Tensor:
    gallery, look, y = session.gallery, session.look, session.labels()
    everything = torch.arange(len(y))
    if gallery is None or (view in ("confused", "suspicious") and look is None):
        return everything[:0]
    said = session.corrections.rows()
    is_said = torch.tensor([name in said for name in gallery.ids], dtype=torch.bool)
    if view == "suspicious" and look is not None:
        rows = look.suspects(y)
        rows = rows[~is_said[rows]]
    elif view == "confused" and look is not None:
        rows = look.suspects(y)
        rows = rows if guess is None else rows[look.guess[rows] == guess]
    elif view == "said":
        rows = everything[is_said]
    elif view == "next":
        rows = session.next_rows()[:MOST_NEXT]
    else:
        rows = everything
    return rows if label is None else rows[y[rows] == label]


def items(session: Session, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Images by their rows."""
    y = session.labels()
    return [_item(session, row, int(y[row])) for row in rows]


def _item(session: Session, row: int, label: int) -> dict[str, Any]:
    gallery, look = session.gallery, session.look
    if gallery is None:
        raise IndexError(row)
    said, given = session.said(row), int(gallery.labels[row])
    values = {
        "row": row,
        "id": gallery.ids[row],
        "split": gallery.splits[row],
        "label": label if label >= 0 else None,
        "given": given if given >= 0 else None,
        "said": said.problem if said else None,
        "top": [],
    }
    if look is not None:
        pairs = zip(look.top[row].tolist(), look.p[row].tolist(), strict=True)
        values["top"] = [{"label": c, "probability": round(p, 4)} for c, p in pairs]
        own = float(look.own[row])
        values["own"] = None if own != own else round(own, 4)
    return values


def answer(session: Session, name: str, prediction: Prediction) -> dict[str, Any]:
    """A prediction with its evidence."""
    values = {**prediction.json(), "image": name}
    gallery, first = session.gallery, prediction.zero_shot
    if gallery is not None and first is not None:
        texts = gallery.sentences[gallery.names.index(first.label)]
        values["text"] = texts[0] if texts else None
    if gallery is not None:
        values["nearest"] = [
            {
                "row": int(near.image),
                "image": gallery.ids[int(near.image)],
                "label": near.label,
                "cosine": near.cosine,
            }
            for near in prediction.nearest
        ]
    return values
