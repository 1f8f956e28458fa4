"""The web application: the page, and what it and other programs ask for."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from cafe.errors import BusyError, CafeError, InputError
from cafe.serve import views
from cafe.serve.pictures import Pictures
from cafe.serve.session import Session

MOST_FILES = 64
"""Images in one request."""

_MOST_WAITING = 128  # requests for predictions at a time; more are told to come again
_Number = Annotated[int, Query(ge=0, lt=1 << 31)]
_PAGE = {
    "": ("index.html", "text/html"),
    "api": ("api.html", "text/html"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "browse.js": ("browse.js", "text/javascript"),
}


class Score(BaseModel):
    """A class and its probability."""

    label: str
    probability: float
    score: float | None = None


class Near(BaseModel):
    """A training image that is near, its row in `/api/images`, and its cosine similarity."""

    row: int
    image: str
    label: str
    cosine: float


class Answer(BaseModel):
    """The prediction for one image."""

    image: str = Field(description="Name of the file, as it was sent.")
    label: str | None = Field(description="Null where the image cannot be read.")
    probability: float | None = Field(description="Calibrated, 0 to 1.")
    top: list[Score] = Field(description="The likeliest classes, the best first.")
    reason: str | None = Field(None, description="Why the image cannot be read.")
    zero_shot: Score | None = Field(None, description="What the classes' texts alone say.")
    text: str | None = Field(None, description="The sentence of the class that `zero_shot` names.")
    nearest: list[Near] = Field([], description="The nearest training images, as evidence.")


class Answers(BaseModel):
    """Predictions in the order of the images."""

    predictions: list[Answer]


class Labels(BaseModel):
    """Row -> class, or null to take back what was said of it."""

    changes: dict[int, int | None] = Field(max_length=10_000)


def make_app(session: Session, pictures: Pictures | None = None) -> FastAPI:
    """The application for a model, without the checks of `cafe.serve.access`.

    Parameters
    ----------
    session : Session
    pictures : Pictures, optional
        None serves no pictures of training images.
    """
    app = FastAPI(
        title=f"cafe: {session.model.record.dataset}",
        description="A model of cafe. `POST /predict` is for programs; /api/* is what the page "
        "itself asks for and may change.",
        docs_url=None,  # these load from other hosts
        redoc_url=None,
    )
    app.add_exception_handler(CafeError, _say)
    app.add_exception_handler(RequestValidationError, _say_what_is_wrong)
    _add_predict(app, session)
    _add_state(app, session, pictures)
    _add_images(app, session, pictures)
    _add_page(app)  # last: it takes every name that is left
    return app


def _add_predict(app: FastAPI, session: Session) -> None:
    """What other programs ask for."""
    waiting = asyncio.Semaphore(2)
    queue = {"length": 0}

    @app.post("/predict", summary="What is on images", response_model_exclude_unset=True)
    async def predict(
        files: Annotated[list[UploadFile], File(description="Image files, up to 64.")],
        top: Annotated[int, Query(ge=1, le=1000, description="Classes to give.")] = 5,
    ) -> Answers:
        if len(files) > MOST_FILES:
            raise HTTPException(413, f"{len(files)} images; up to {MOST_FILES} are taken at once.")
        if queue["length"] >= _MOST_WAITING:
            raise HTTPException(503, "too many requests at once; try again.", {"Retry-After": "2"})
        queue["length"] += 1
        try:
            async with waiting:
                contents = [await file.read() for file in files]
                made = await run_in_threadpool(session.predict, contents, top)
        finally:
            queue["length"] -= 1
        named = zip(files, made, strict=True)
        return Answers.model_validate(
            {"predictions": [views.answer(session, file.filename or "", p) for file, p in named]}
        )


def _add_state(app: FastAPI, session: Session, pictures: Pictures | None) -> None:
    """What the page shows at all times, and what a person changes."""

    @app.get("/api/state", include_in_schema=False)
    def state() -> dict[str, Any]:
        return views.state(session, pictures)

    @app.get("/api/classes", include_in_schema=False)
    def classes() -> list[dict[str, Any]]:
        return views.classes(session)

    @app.get("/api/confusions", include_in_schema=False)
    def confusions() -> list[dict[str, int]]:
        pairs = session.look.confusions(session.labels()) if session.look else []
        return [{"label": a, "guess": b, "count": count} for a, b, count in pairs]

    @app.post("/api/labels", include_in_schema=False)
    def labels(said: Labels) -> dict[str, Any]:
        session.correct(said.changes)
        return views.state(session, pictures)

    @app.post("/api/train", include_in_schema=False, status_code=202)
    def train() -> dict[str, Any]:
        session.start(save=True)
        return views.state(session, pictures)


def _add_page(app: FastAPI) -> None:
    """The page and its parts."""

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    def page(name: str = "") -> Response:
        if name not in _PAGE:
            raise HTTPException(404, "no such page.")
        file, kind = _PAGE[name]
        return Response(_source(file), media_type=kind, headers={"Cache-Control": "no-cache"})


def _add_images(app: FastAPI, session: Session, pictures: Pictures | None) -> None:
    """What the page asks for of the images of the dataset."""

    def is_known(row: int) -> bool:
        return session.gallery is not None and 0 <= row < len(session.gallery)

    @app.get("/api/images", include_in_schema=False)
    def images(
        view: views.View = "all",
        label: _Number | None = None,
        guess: _Number | None = None,
        start: _Number = 0,
        count: Annotated[int, Query(ge=1, le=500)] = 60,
        rows: Annotated[list[int] | None, Query(max_length=500)] = None,
    ) -> dict[str, Any]:
        if rows is not None:  # these, whatever their view would show now
            return {"items": views.items(session, [row for row in rows if is_known(row)])}
        return views.images(session, view, label, guess, slice(start, start + count))

    @app.get("/api/images/{row}", include_in_schema=False)
    def image(row: int) -> dict[str, Any]:
        if not is_known(row):
            raise HTTPException(404, "no such image.")
        return views.items(session, [row])[0]

    @app.get("/api/pictures/{row}", include_in_schema=False)
    def picture(row: int, edge: Literal["144", "640"] = "144") -> Response:
        jpeg = pictures.jpeg(row, int(edge)) if pictures is not None and is_known(row) else None
        if jpeg is None:
            raise HTTPException(404, "no such picture.")
        return Response(jpeg, media_type="image/jpeg", headers=_KEEP)


_KEEP = {"Cache-Control": "private, max-age=600"}


def _source(name: str) -> str:
    """A file of the page, as it is."""
    return files("cafe.serve").joinpath("page", name).read_text(encoding="utf-8")


def _say(_: Request, error: Exception) -> JSONResponse:
    """409 and 500 may be over by the next time; what 422 answers is refused each time."""
    kinds = ((InputError, 422), (BusyError, 409), (Exception, 500))
    status = next(status for kind, status in kinds if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status)


def _say_what_is_wrong(_: Request, error: Exception) -> JSONResponse:
    """As FastAPI does, without the values that were sent: one may be no JSON, as an infinity."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  for mypy
    kept = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
    return JSONResponse({"detail": kept}, 422)
