"""Weights that cannot be had: an error within seconds, never minutes of retries."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cafe.encoders import hub
from cafe.encoders.encoder import load_encoder
from cafe.errors import WeightsError


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refused() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with a refusal."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def forbidding() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_reachable_waits_no_longer_than_it_is_told(silent: str) -> None:
    start = time.perf_counter()
    assert not hub.reachable(silent, seconds=0.3)
    assert time.perf_counter() - start < 3


def test_reachable_sees_a_refused_connection_at_once(refused: str) -> None:
    start = time.perf_counter()
    assert not hub.reachable(refused, seconds=20)
    assert time.perf_counter() - start < 5


def test_any_answer_is_an_answer(forbidding: str) -> None:
    assert hub.reachable(forbidding, seconds=20)


@pytest.mark.parametrize("address", ["no address", "http://[", "ftp//x"])
def test_what_is_no_address_is_not_reachable(address: str) -> None:
    assert not hub.reachable(address, seconds=5)


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b79k"])
def test_weights_that_cannot_be_had(
    tag: str, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_encoder("ViT-B-32", tag, device="cpu", precision="fp32")
    assert time.perf_counter() - start < 10
    for part in (
        f"ViT-B-32 '{tag}' is not on this machine",
        refused,
        "checkpoint file with pretrained=",
        "nano",
    ):
        assert part in str(caught.value)


def test_what_is_on_disk_asks_nobody(no_hub: None) -> None:
    from huggingface_hub import constants

    assert hub.fetch(lambda: constants.HF_HUB_OFFLINE, "a thing") is True


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda *_: True)

    def get() -> None:
        raise OSError("connection reset\nand more")

    with pytest.raises(
        WeightsError, match=r"^a thing could not be downloaded \(connection reset and more\); "
    ):
        hub.fetch(get, "a thing")


def test_a_fault_that_no_network_explains(no_hub: None) -> None:
    def get() -> None:
        raise ImportError("please install transformers")

    with pytest.raises(WeightsError, match=r"a thing cannot be set up \(please install transf"):
        hub.fetch(get, "a thing")


def test_weights_with_an_address_of_their_own(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(WeightsError, match=r"is not on this machine and .* does not answer"):
        hub.fetch_checkpoint({"url": f"{refused}/weights.pt"}, "RN50 'x'")
