"""Opening an image that a URL names: fetched whole, within a budget of bytes and time."""

from __future__ import annotations

import http.client
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from cafe.datasets.open_image import open_image
from cafe.errors import ImageError, counted, one_line

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 1 << 26
"""Of one image that is fetched."""

MOST_SECONDS = 60.0
"""For one image, from looking up its host to its last byte."""

_SILENCE = 15.0  # seconds that a host may send nothing
_BLOCK = 1 << 16
_AS_IT_IS = "%/:=&?~#+!$,;'@()*[]"  # of a URL; all else is escaped


def is_url(source: object) -> bool:
    """Whether an image is named by a URL: http or https, no other scheme."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def open_url(url: str) -> Image.Image:
    """Fetch an image and open it, not yet decoded.

    Redirects are followed to http and https alone.

    Raises
    ------
    ImageError
        If the host refuses it, it is too large or takes too long, or it is no image; see
        `open_image`.
    """
    answers: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def fetch() -> None:
        try:
            answers.put(_fetch(url))
        except Exception as error:
            answers.put(error)

    # a thread of its own: nothing else ends the look-up of a host, or one that sends drop by drop
    threading.Thread(target=fetch, daemon=True).start()
    try:
        answer = answers.get(timeout=MOST_SECONDS)
    except queue.Empty:
        raise ImageError(_too_slow()) from None
    if isinstance(answer, Exception):
        raise ImageError(_in_words(answer)) from answer
    return open_image(answer)


def _fetch(url: str) -> bytes:
    end, content = time.monotonic() + MOST_SECONDS, bytearray()
    headers = {"User-Agent": "cafe-clip", "Accept": "image/*"}
    request = urllib.request.Request(urllib.parse.quote(url, safe=_AS_IT_IS), headers=headers)  # noqa: S310  # http or https
    with _opener().open(request, timeout=_SILENCE) as response:
        while block := response.read1(_BLOCK):
            content += block
            if len(content) > MOST_BYTES:
                raise ImageError(f"it has more than the {MOST_BYTES:,} bytes that cafe fetches")
            if time.monotonic() > end:
                raise ImageError(_too_slow())
        if response.length:  # of what was announced
            raise ImageError(f"its last {counted(response.length, 'byte')} did not come")
    return bytes(content)


def _opener() -> Any:
    """What opens http and https and nothing else, after a redirect either."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _too_slow() -> str:
    return f"it did not come within {MOST_SECONDS:g} seconds"


def _in_words(error: Exception) -> str:
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"its host answers {error.code} {error.reason}".strip()
    if isinstance(error, http.client.HTTPException):
        return f"its host does not answer as HTTP does ({one_line(error)})"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"it cannot be fetched ({reason if isinstance(reason, str) else one_line(reason)})"
