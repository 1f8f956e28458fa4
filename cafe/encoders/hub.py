"""Fetching weights from a model hub, with an answer within seconds where there is no network."""

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
from cafe.errors import CafeError, WeightsError

T = TypeVar("T")

PROBE_SECONDS = 5.0
"""How long the hub may take to answer anything at all; its own client retries for minutes."""

ADVICE = (
    "give a file with --pretrained FILE, or use --model nano, which ships with cafe and works "
    "offline"
)


def hub_address() -> str:
    """The hub's address: `$HF_ENDPOINT`, else Hugging Face's."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def reachable(address: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether anything answers at an address, whatever it answers.

    Parameters
    ----------
    address : str
        URL that is asked for its headers.
    seconds : float
        Time to wait, name look-up included.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")  # noqa: S310
            urllib.request.urlopen(request, timeout=seconds).close()  # noqa: S310
        except urllib.error.HTTPError:
            answered.set()  # a refusal is an answer too
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    # a name look-up ignores every timeout, so it waits in a thread that may be left behind
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


@contextmanager
def _offline() -> Iterator[None]:
    """Have the hub's client look at its local files alone, and fail at once without them."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def fetch(get: Callable[[], T], what: str, advice: str = ADVICE) -> T:
    """Run a function that may download, first from what is on disk.

    Parameters
    ----------
    get : callable
        Fetches through Hugging Face's client, which keeps what it has downloaded.
    what : str
        What is fetched, for the error.
    advice : str
        What else to do, for the error.

    Raises
    ------
    WeightsError
        If it is neither on disk nor to be had.
    """
    try:
        with _offline():
            return get()
    except CafeError:
        raise
    except OSError as error:  # what the client raises for what is not on disk
        missing = error
    except Exception as error:
        raise WeightsError(
            f"{what} cannot be set up ({_brief(error)}); correct its configuration."
        ) from error
    if not reachable(hub_address()):
        raise WeightsError(
            f"{what} is not on this machine and {hub_address()} does not answer; {advice}."
        ) from missing
    try:
        return get()
    except CafeError:
        raise
    except Exception as error:
        raise WeightsError(f"{what} could not be fetched ({_brief(error)}); {advice}.") from error


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def weights(described: Mapping[str, Any], what: str) -> Path:
    """Path of a published checkpoint, downloaded unless it is on disk.

    Parameters
    ----------
    described : mapping
        open_clip's description of the checkpoint.
    what : str
        What it is, for the error.
    """
    open_clip = import_open_clip()
    if described.get("hf_hub"):
        return Path(fetch(lambda: open_clip.download_pretrained(dict(described)), what))
    address = str(described.get("url", ""))
    on_disk = Path.home() / ".cache" / "clip" / address.rpartition("/")[2]
    if not on_disk.is_file() and not reachable(address):
        raise WeightsError(
            f"{what} is not on this machine and {address} does not answer; {ADVICE}."
        )
    try:
        return Path(open_clip.download_pretrained(dict(described)))
    except Exception as error:  # a stopped download, a wrong checksum
        raise WeightsError(f"{what} could not be fetched ({_brief(error)}); {ADVICE}.") from error
