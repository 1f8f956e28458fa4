"""Downloads from a model hub, with an error within seconds where there is no network."""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cafe.compat import import_open_clip
from cafe.errors import CafeError, WeightsError, one_line, raise_as

T = TypeVar("T")

PROBE_SECONDS = 5.0
"""How long to wait for any answer of the hub, whose own client retries for minutes."""

ADVICE = (
    "give a checkpoint file with pretrained=, or use model='nano', which ships with cafe and works "
    "offline"
)


def hub_address() -> str:
    """The hub's address: `$HF_ENDPOINT`, else Hugging Face's."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def reachable(address: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a server answers at an address, be it with an error.

    Parameters
    ----------
    address : str
        URL of a HEAD request.
    seconds : float
        Time to wait, including the name look-up.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")  # noqa: S310
            urllib.request.urlopen(request, timeout=seconds).close()  # noqa: S310
        except urllib.error.HTTPError:
            pass  # an error status is an answer too
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    # a name look-up ignores timeouts, so the request runs in a thread that can be abandoned
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


@contextmanager
def _offline() -> Iterator[None]:
    """Let the hub's client use its local files only, and fail at once without them."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def fetch(get: Callable[[], T], what: str, advice: str = ADVICE) -> T:
    """Run a function that may download, first without the network.

    Parameters
    ----------
    get : callable
        Loads something with Hugging Face's client, which keeps its downloads on disk.
    what : str
        What is loaded, for the error.
    advice : str
        What else to do, for the error.

    Raises
    ------
    WeightsError
        If it is not on disk and cannot be downloaded.
    """
    try:
        with _offline():
            return get()
    except CafeError:
        raise
    except OSError as error:  # the client's error for a file that is not on disk
        missing = error
    except Exception as error:
        raise WeightsError(
            f"{what} cannot be set up ({one_line(error)}); correct its configuration."
        ) from error
    return _download(get, what, hub_address(), advice, missing)


def _download(
    get: Callable[[], T], what: str, address: str, advice: str, missing: Exception | None = None
) -> T:
    if not reachable(address):
        raise WeightsError(
            f"{what} is not on this machine and {address} does not answer; {advice}."
        ) from missing
    # a stopped download, a wrong checksum
    with raise_as(WeightsError, f"{what} could not be downloaded", advice, Exception):
        return get()


def fetch_checkpoint(published: Mapping[str, Any], what: str) -> Path:
    """Path of a published checkpoint, downloaded unless it is on disk.

    Parameters
    ----------
    published : mapping
        open_clip's entry of the checkpoint.
    what : str
        What it is, for the error.
    """
    open_clip = import_open_clip()

    def get() -> Path:
        return Path(open_clip.download_pretrained(dict(published)))

    if published.get("hf_hub"):
        return fetch(get, what)
    address = str(published.get("url", ""))
    on_disk = Path.home() / ".cache" / "clip" / address.rpartition("/")[2]
    return get() if on_disk.is_file() else _download(get, what, address, ADVICE)
