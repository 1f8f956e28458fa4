"""Serving a model until it is stopped."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from cafe.devices import ProductPrecision, resolve_device
from cafe.encoders.preprocess import quiet_pillow
from cafe.errors import CacheError, CafeError, InputError, how_to_install
from cafe.inference.model import load_model
from cafe.inference.neighbours import find_cache
from cafe.methods.base import Context
from cafe.progress import Progress
from cafe.results.saved_model import head_of_model
from cafe.serve.gallery import Gallery
from cafe.serve.pictures import Pictures
from cafe.serve.session import Session

_GRACE = 3  # seconds for answers that are under way when the server is stopped


def serve(
    model: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    images: Path | str | None = None,
    unlabelled: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a model as a web page and to programs, until the process is interrupted.

    Parameters
    ----------
    model : Path or str
        A folder that `cafe train` wrote. Corrections and new heads are saved in it.
    host : str
        What to listen on; where it is not loopback, a random token is asked for.
    port : int
        0 takes a free one.
    images : Path or str, optional
        Where the dataset's images are, as `cafe train` took it; None looks where the model was
        trained from.
    unlabelled : Path or str, optional
        A folder of images without labels, to choose from what to label next.
    cache : Path or str, optional
        The cache folder; None is `$CAFE_CACHE`, else `./cache`.
    device : str
        "auto", "cpu", "cuda", "cuda:N".
    progress, note : callable, optional
        See `cafe.progress`.
    on_ready : callable, optional
        Called with the address, token included, when the server listens.

    Raises
    ------
    CafeError
        If the model cannot be loaded, the address cannot be had, or a package is missing.
    """
    try:
        import python_multipart  # noqa: F401  FastAPI looks for it late
        import uvicorn

        from cafe.serve.access import Access, is_loopback
        from cafe.serve.app import make_app
    except ImportError:
        raise CafeError(f"the page needs FastAPI and uvicorn; {how_to_install('serve')}.") from None
    listener = _listen(host, port)
    try:
        session, pictures = _open(model, images, unlabelled, cache, device, progress, note)
        token = "" if is_loopback(host) else secrets.token_urlsafe(32)
        port = listener.getsockname()[1]
        listener.listen(128)  # who reads the address may ask at once, and waits
        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{port}/" + (f"?token={token}" if token else ""))
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        config = uvicorn.Config(
            Access(make_app(session, pictures), host, token),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=1000,
        )
        if session.gallery is not None:
            session.start(save=False)
        try:
            with quiet_pillow():
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            session.close()
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before the work begins."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"cannot listen on '{host}' ({error}); choose another host=.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise CafeError(
            f"cannot listen on {host}, port {port} ({reason}); choose another port=, 0 takes a "
            "free one."
        ) from error
    return listener


def _open(
    model: Path | str,
    images: Path | str | None,
    unlabelled: Path | str | None,
    cache: Path | str | None,
    device: str,
    progress: Progress | None,
    note: Callable[[str], None],
) -> tuple[Session, Pictures | None]:
    """What is served."""
    loaded = load_model(model, device=device)
    gallery = pictures = None
    try:
        root = None if cache is None else Path(cache)
        gallery = Gallery(find_cache(loaded.saved, head_of_model(Path(model)), root))
    except CacheError as error:
        note(f"only predictions are served: {error}")
    if unlabelled is not None:
        if gallery is None:
            raise InputError("unlabelled= needs the cache that the model was fitted on.")
        folder = Path(unlabelled)
        for line in gallery.add_unlabelled(folder, loaded.predictor.only_encoder, progress):
            note(f"skipped {line}")
    if gallery is not None:
        pictures = Pictures(gallery, images, loaded.record.command)
        if not pictures.at_hand:
            note("the images are not at hand, so there are no pictures; images= says where.")
    precision: ProductPrecision = loaded.record.precision or "auto"
    session = Session(loaded, gallery, Context(resolve_device(device), precision))
    return session, pictures
