"""A served model: predictions, labels, fits, and who may ask for them."""

from __future__ import annotations

import io
import json
import shlex
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import HOSTILE, WRONG, make_model, running, some_digits, wait_for

import cafe
from cafe.curation.suggestions import Suggestion, read_suggestions
from cafe.errors import CafeError, InputError, how_to_install
from cafe.inference.neighbours import find_cache
from cafe.inference.predictor import Predictor
from cafe.methods.base import Context
from cafe.results.saved_model import head_of_model
from cafe.store.files import lock_file

pytest.importorskip("fastapi", reason=how_to_install("serve"))
from fastapi.testclient import TestClient

from cafe.serve.access import HEADERS, Access
from cafe.serve.app import MOST_FILES, make_app
from cafe.serve.corrections import CONFIRMED, Corrections
from cafe.serve.gallery import Gallery
from cafe.serve.history import HISTORY, read_history
from cafe.serve.pictures import Pictures, _Kept, class_names_in
from cafe.serve.session import CORRECTIONS, Session
from cafe.serve.uploads import MOST_PIXELS
from cafe.serve.views import relabel_command
from cafe.study import fit_on_all

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    make_model(folder, some_digits())
    return folder


def open_session(work: Path, unlabelled: Path | None = None) -> Session:
    folder = work / "model"
    model = cafe.load_model(folder, device="cpu")
    gallery = Gallery(find_cache(model.saved, head_of_model(folder), work / "cache"))
    if unlabelled is not None:
        gallery.add_unlabelled(unlabelled, model.predictor.encoder)
    session = Session(model, gallery, Context())
    session.start(save=False)
    session.join()
    assert session.error == ""
    return session


@pytest.fixture
def session(work: Path) -> Iterator[Session]:
    yield open_session(work)
    for name in (CORRECTIONS, HISTORY):
        (work / "model" / name).unlink(missing_ok=True)


@pytest.fixture
def client(session: Session) -> TestClient:
    assert session.gallery is not None
    pictures = Pictures(session.gallery, None)
    return TestClient(Access(make_app(session, pictures)), base_url=LOCAL)


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", size, 200).save(stream, "PNG")
    return stream.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side * side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sent(*images: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]


def correct_answers() -> list[int]:
    return [item.label for item in some_digits(0).splits["train"]]


def test_a_prediction_is_that_of_the_library(client: TestClient, work: Path) -> None:
    digits = some_digits()
    image = io.BytesIO()
    digits.open_image(digits.splits["train"][40]).save(image, "PNG")
    path = work / "one.png"
    path.write_bytes(image.getvalue())
    reply = client.post("/predict?top=3", files=sent(image.getvalue(), b"no image"))
    good, bad = reply.json()["predictions"]
    (expected,) = cafe.load_model(work / "model").predictor.predict([path])
    assert (good["image"], good["label"]) == ("0.png", expected.label)
    assert good["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert len(good["top"]) == 3
    near = good["nearest"][0]
    assert near["cosine"] > 0.99
    assert near["image"] == digits.splits["train"][near["row"]].id
    assert good["zero_shot"]["label"] in good["text"]
    assert bad == {
        "image": "1.png",
        "label": None,
        "probability": None,
        "top": [],
        "reason": bad["reason"],
        "nearest": [],
    }
    assert "cannot identify an image" in bad["reason"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "cannot id"),
        (b"<!doctype html><script>alert(1)</script>", "cannot identify"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged"),
        (png()[:-20], ""),
        (b"\xff\xd8\xff" + bytes(5000), "damaged"),
        (bomb(50_000), "2500000000 pixels"),
        (bomb(9_000), f"more than the {MOST_PIXELS:,}"),
        (b"GIF89a" + bytes(30), ""),
        (bytes(range(256)) * 4000, "cannot identify"),
    ],
    ids=["empty", "svg", "html", "no-png", "cut", "no-jpeg", "bomb", "large", "no-gif", "noise"],
)
def test_hostile_images_get_a_reason(client: TestClient, image: bytes, reason: str) -> None:
    reply = client.post("/predict", files=sent(image, png()))
    bad, good = reply.json()["predictions"]
    assert (reply.status_code, bad["label"]) == (200, None)
    assert bad["reason"]
    assert reason in bad["reason"]
    assert good["label"]


def test_limits_of_a_request(session: Session) -> None:
    app = Access(make_app(session), most_bytes=100_000)
    client = TestClient(app, base_url=LOCAL)
    assert client.post("/predict", files=sent(*[png()] * (MOST_FILES + 1))).status_code == 413
    assert client.post("/predict", files=sent(bytes(200_000))).status_code == 413

    def stream() -> Iterator[bytes]:  # of a length that is not said
        for _ in range(40):
            yield bytes(10_000)

    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/predict", content=stream(), headers=kind).status_code == 413
    slow = TestClient(Access(make_app(session), seconds=-1), base_url=LOCAL)
    assert slow.post("/predict", files=sent(png())).status_code == 408
    for body in (b"", b"--x\r\n", b"--x--\r\n"):
        assert client.post("/predict", content=body, headers=kind).status_code in (400, 422)
    assert client.post("/predict?top=0", files=sent(png())).status_code == 422


def test_twenty_clients_at_once(client: TestClient) -> None:
    replies: list[Any] = []

    def ask() -> None:
        replies.append(client.post("/predict", files=sent(png())).json()["predictions"][0])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    with client:  # one event loop for all
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(replies) == 20
    assert len({reply["label"] for reply in replies}) == 1


def test_the_loop_raises_accuracy(client: TestClient, session: Session, work: Path) -> None:
    before = client.get("/api/state").json()
    found = client.get("/api/images?view=suspicious&count=500").json()
    right = correct_answers()
    assert session.gallery is not None
    wrong = {row for row, label in enumerate(right) if label != int(session.gallery.labels[row])}
    suspects = [item["row"] for item in found["items"]]
    assert len(wrong) == WRONG
    assert len(wrong & set(suspects[:WRONG])) >= 0.7 * WRONG
    reply = client.post("/api/labels", json={"changes": {row: right[row] for row in wrong}})
    assert (reply.json()["said"], reply.json()["waiting"]) == (WRONG, WRONG)
    assert client.post("/api/train").status_code == 202
    session.join()
    after = client.get("/api/state").json()
    assert after["accuracy"] > before["accuracy"] + 4
    assert after["waiting"] == 0
    first, last = after["history"]
    assert (first["accuracy"], last["accuracy"]) == (before["accuracy"], after["accuracy"])
    assert before["accuracy"] < last["before"] <= last["accuracy"] + 2
    made = cafe.load_model(work / "model")
    assert made.record.estimate is not None
    assert made.record.estimate.accuracy == after["accuracy"]
    assert f"{WRONG} labels differ" in made.record.words
    # a new server knows what was said
    again = open_session(work)
    assert again.labels().tolist() == right
    # the dataset's own labels are another training, which `cafe train` does not skip
    cache = find_cache(made.saved, head_of_model(work / "model"), work / "cache")
    assert not cafe.train(cache, method="gda", output=work / "model", device="cpu").was_there


def test_what_was_said_is_kept_shown_and_taken_back(client: TestClient, session: Session) -> None:
    assert session.gallery is not None
    row, given = 7, int(session.gallery.labels[7])
    client.post("/api/labels", json={"changes": {row: (given + 3) % 10, 8: 0}})
    item = client.get(f"/api/images/{row}").json()
    assert (item["label"], item["given"], item["said"]) == ((given + 3) % 10, given, "label")
    assert client.get("/api/images?view=said").json()["total"] == 2
    client.post("/api/labels", json={"changes": {row: given}})
    assert client.get(f"/api/images/{row}").json()["said"] == CONFIRMED
    kept = {row.id: row for row in read_suggestions(session.corrections.path)}
    assert not kept[session.gallery.ids[row]].is_change
    client.post("/api/labels", json={"changes": {row: None, 8: None}})
    assert client.get("/api/state").json()["said"] == 0
    assert read_suggestions(session.corrections.path) == []


@pytest.mark.parametrize("changes", [{"9999": 1}, {"-1": 1}, {"1": 10}, {"1": -1}, {"a": 1}, [], 3])
def test_labels_that_make_no_sense_change_nothing(client: TestClient, changes: Any) -> None:
    assert client.post("/api/labels", json={"changes": changes}).status_code == 422
    assert client.get("/api/state").json()["said"] == 0


def test_a_number_that_is_no_json_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/api/labels",
        content=b'{"changes": {"0": 1e400}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "changes", "0"]


def test_corrections_that_cannot_be_read_are_told(client: TestClient, session: Session) -> None:
    path = session.corrections.path
    path.unlink(missing_ok=True)
    path.mkdir()
    try:
        answer = client.get("/api/state")
        assert answer.status_code == 500
        assert "cannot read '" in answer.json()["detail"]
    finally:
        path.rmdir()
    assert client.get("/api/state").json()["said"] == 0
    for damaged in (b"id;label\n", b"\xff\xfea\n"):  # a label may be sent again when it is mended
        path.write_bytes(damaged)
        answer = client.post("/api/labels", json={"changes": {0: 1}})
        assert (answer.status_code, str(path) in answer.json()["detail"]) == (500, True)
        assert path.read_bytes() == damaged
    path.unlink()
    assert client.post("/api/labels", json={"changes": {0: 1}}).json()["said"] == 1


def test_one_fit_at_a_time_and_an_error_is_told(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()

    def fail(*_: Any) -> None:
        going.wait(30)
        raise CafeError("no memory")

    monkeypatch.setattr("cafe.serve.session.look_at", fail)
    assert client.post("/api/train").status_code == 202
    assert client.post("/api/train").status_code == 409
    assert client.post("/predict", files=sent(png())).status_code == 200  # it goes on answering
    going.set()
    session.join()
    state = client.get("/api/state").json()
    assert (state["busy"], state["error"], state["looked"]) == ("", "no memory", True)


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_head_answers_before_it_is_judged(
    fails: bool, client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, plain = session._predictor, fit_on_all._calibrate
    seen: list[tuple[bool, Predictor]] = []

    def calibrate(*given: Any) -> Any:
        state = client.get("/api/state").json()
        seen.append((state["answers"], session._predictor))
        if fails:
            raise CafeError("no memory")
        return plain(*given)

    monkeypatch.setattr(fit_on_all, "_calibrate", calibrate)
    session.correct(dict(enumerate(correct_answers())))
    session.start(save=True)
    session.join()
    ((answers, early),) = seen
    assert answers
    assert not session.answers
    assert early is not before
    if fails:  # what is not judged and saved is not kept either
        assert (session._predictor, session.error) == (before, "no memory")
    else:
        now, then = (predictor.saved.head.tensors() for predictor in (session._predictor, early))
        assert all(torch.equal(now[name], then[name]) for name in now)


@pytest.mark.parametrize("fails", ["inference.model.Model.save", "serve.session.note_fit"])
def test_the_model_that_is_saved_is_served(
    fails: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise CafeError("the disk is full")

    session.correct({0: correct_answers()[0]})
    monkeypatch.setattr(f"cafe.{fails}", fail)
    session.start(save=True)
    session.join()
    assert session.error == "the disk is full"
    saved = cafe.load_model(session.folder, device="cpu").saved.head.tensors()
    for served in (session._predictor.saved, session.model.saved):
        found = served.head.tensors()
        assert all(torch.equal(found[name], saved[name]) for name in saved)
    is_saved = fails.endswith("note_fit")
    assert torch.equal(session.trained, session.labels()) == is_saved


def test_pages_of_images_and_views(client: TestClient, session: Session) -> None:
    page = client.get("/api/images?view=all&start=290&count=60").json()
    assert (page["total"], len(page["items"])) == (300, 10)
    assert client.get("/api/images?view=all&start=9000").json()["items"] == []
    some = client.get("/api/images?rows=7&rows=3&rows=9000").json()["items"]
    assert [item["row"] for item in some] == [7, 3]
    of_class = client.get("/api/images?view=all&label=3").json()
    assert {item["label"] for item in of_class["items"]} == {3}
    (pair, *_) = client.get("/api/confusions").json()
    url = f"/api/images?view=confused&label={pair['label']}&guess={pair['guess']}"
    confused = client.get(url).json()
    assert confused["total"] == pair["count"]
    assert {item["top"][0]["label"] for item in confused["items"]} == {pair["guess"]}
    assert client.get("/api/images?view=next").json()["total"] > 0
    huge = f"view=all&label={10**23}"
    for wrong in ("view=none", "view=all&start=-1", "view=all&count=501", huge):
        assert client.get(f"/api/images?{wrong}").status_code == 422
    classes = client.get("/api/classes").json()
    assert sum(one["images"] for one in classes) == 300
    assert 0 < sum(one["right"] for one in classes) < sum(one["judged"] for one in classes)
    assert "zero" in classes[0]["texts"][0]


def test_pictures(client: TestClient, session: Session, work: Path, tmp_path: Path) -> None:
    from PIL import Image

    reply = client.get("/api/pictures/5")
    assert reply.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(reply.content)).size == (8, 8)
    for url in ("300", "-1", "5?edge=9", "..%2f..%2fetc%2fpasswd"):
        assert client.get(f"/api/pictures/{url}").status_code in (404, 422)
    assert session.gallery is not None
    folder = tmp_path / "images"
    folder.mkdir()
    session.gallery.ids[:3] = ["a.png", "../secret.png", "gone.png"]
    for path in (folder / "a.png", tmp_path / "secret.png"):
        Image.new("RGB", (900, 300)).save(path)
    found = Pictures(session.gallery, folder)
    assert [found.jpeg(row, 144) is not None for row in range(3)] == [True, False, False]
    # where the model's command says that it was trained from
    session.gallery.cache.header.__dict__["dataset"] = "mine"
    by_command = Pictures(session.gallery, None, f"cafe train -o model {folder}")
    assert by_command.at_hand
    file = shlex.quote(str(session.corrections.path))
    assert relabel_command(session, by_command) == f"cafe relabel {file} {folder} --yes"
    (folder / "names.txt").write_text("0")
    by_names = Pictures(session.gallery, None, f"cafe train --class-names {folder}/names.txt")
    assert by_names.dataset == folder
    assert relabel_command(session, None) == f"cafe relabel {file} DATASET"
    # a list elsewhere, whose images an option names
    (tmp_path / "list.csv").write_text("path,label\na.png,0\n")
    session.gallery.cache.header.__dict__["source"] = "manifest list.csv, which has no splits; by"
    command = f"cafe train --data-root {folder} {tmp_path}/list.csv --class-names n.json"
    for images in (None, folder):
        assert Pictures(session.gallery, images, command).dataset == tmp_path / "list.csv"
    assert Pictures(session.gallery, None, f"cafe train {folder}").dataset is None  # it is gone
    assert class_names_in(command) == ["--class-names", "n.json"]
    assert class_names_in("cafe train x --class-names=n.json") == ["--class-names=n.json"]
    assert class_names_in("cafe train x") == []
    assert not Pictures(session.gallery, None, "cafe train 'gone").at_hand
    # a folder that is called as a dataset that ships with cafe
    session.gallery.cache.header.__dict__["dataset"] = "digits"
    (folder / "a.png").unlink()
    session.gallery.ids[1] = "b.png"  # the first image was moved
    Image.new("RGB", (9, 9)).save(folder / "b.png")
    named = Pictures(session.gallery, None, f"cafe train {folder}")
    assert [named.jpeg(row, 144) is not None for row in range(3)] == [False, True, False]


def test_pictures_are_kept_up_to_so_many_bytes() -> None:
    asked = list[tuple[int, int]]()

    def make(row: int, edge: int) -> bytes | None:
        asked.append((row, edge))
        return bytes(1000) if row else None

    kept = _Kept(make, 3 * 1200 + 200)
    for row in (0, 1, 2, 1, 3, 1, 4, 1, 0):
        assert kept(row, 144) == (bytes(1000) if row else None)
        assert kept.bytes <= 3 * 1200 + 200
    assert [row for row, _ in asked] == [0, 1, 2, 3, 4, 0]
    assert kept.bytes == 200 + 3 * 1200


def test_unlabelled_images_are_labelled_and_fitted_on(work: Path, tmp_path: Path) -> None:
    digits = cafe.load_dataset("digits")
    items = digits.splits["test"][::60]
    for item in items:
        digits.open_image(item).save(tmp_path / f"{item.id}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    session = open_session(work, tmp_path)
    try:
        client = TestClient(Access(make_app(session)), base_url=LOCAL)
        page = client.get("/api/images?view=next").json()
        assert page["total"] == len(items)
        labels = {f"{tmp_path.as_posix()}/{item.id}.png": item.label for item in items}
        changes = {item["row"]: labels[item["id"]] for item in page["items"]}
        assert all(item["label"] is None for item in page["items"])
        client.post("/api/labels", json={"changes": changes})
        session.start(save=True)
        session.join()
        assert session.error == ""
        assert sum(session.model.record.images) == 300 + len(items)
        kept = read_suggestions(session.corrections.path)
        assert {(row.problem, row.current) for row in kept} == {("unlabelled", "")}
    finally:
        for name in (CORRECTIONS, HISTORY):
            (work / "model" / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no folder"):
        open_session(work, tmp_path / "none")


def test_auto_is_trained_again_with_its_settings(tmp_path: Path) -> None:
    digits = some_digits()
    few = replace(digits, splits={"train": digits.splits["train"][:90]})
    make_model(tmp_path, few, "auto", epochs=1)
    session = open_session(tmp_path)
    assert session.look is not None
    before, said = session.look.fitted.head, session.look.errors.tolist()
    assert session.gallery is not None
    rows = {row: int(session.look.guess[row]) for row in said}
    session.correct(rows)
    session.start(save=True)
    session.join()
    assert session.error == ""
    after = session.look.fitted.head
    assert after.method == "auto"
    assert after.params["epochs"] == before.params["epochs"] == 1
    assert f"{len(rows)} labels differ" in (tmp_path / "model" / "model.json").read_text()
    first, last = read_history(tmp_path / "model")
    assert last.accuracy > first.accuracy  # of right labels more are guessed
    assert cafe.load_model(tmp_path / "model", device="cpu").record.method == "auto"


def test_names_of_classes_are_data(tmp_path: Path) -> None:
    dataset = some_digits(names=dict(enumerate(HOSTILE)))
    make_model(tmp_path, dataset)
    session = open_session(tmp_path)
    client = TestClient(Access(make_app(session)), base_url=LOCAL)
    assert [one["name"] for one in client.get("/api/classes").json()][:5] == list(HOSTILE)
    assert client.post("/api/labels", json={"changes": {row: row for row in range(5)}}).is_success
    assert [session.labels()[row] for row in range(5)] == list(range(5))
    assert open_session(tmp_path).labels()[:5].tolist() == list(range(5))
    client.post("/api/train")
    session.join()
    assert session.error == ""


# who may ask


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:9999", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.5", 421),
        ("", 421),
        ("[", 421),
        ("localhost@evil.example", 421),
    ],
)
def test_a_host_that_is_not_ours_is_refused(client: TestClient, host: str, status: int) -> None:
    assert client.get("/api/state", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"origin": LOCAL}, 422),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_another_page_changes_nothing(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    for path in ("/api/labels", "/predict"):
        assert client.post(path, headers=headers).status_code == status


def test_a_token_is_asked_for_everywhere(session: Session) -> None:
    app = Access(make_app(session), host="0.0.0.0", token="s3cret")  # noqa: S104, S106
    base = "http://10.1.2.3:8000"
    client = TestClient(app, base_url=base, follow_redirects=False)
    for path in ("/", "/page.js", "/api/state", "/openapi.json", "/?token=s3cre", "/?token=é"):
        assert client.get(path).status_code == 401
    assert client.post("/predict", files=sent(png())).status_code == 401
    assert client.get("/api/state?token=s3cret").status_code == 401  # it stays in no log
    for wrong in ("Bearer", "Bearer s3cret2", "Basic s3cret", "Bearer é"):
        headers = {"authorization": wrong.encode("latin-1")}
        assert client.get("/api/state", headers=headers).status_code == 401
    program = {"authorization": "Bearer s3cret"}
    assert client.post("/predict", files=sent(png()), headers=program).status_code == 200
    reply = client.get("/?token=s3cret")
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in reply.headers["set-cookie"]
    assert client.get("/").status_code == 200  # the cookie
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421


def test_every_answer_has_the_policy(client: TestClient) -> None:
    paths = ("/", "/api", "/page.js", "/page.css", "/nothing", "/api/state", "/api/pictures/1")
    for path in paths:
        headers = client.get(path).headers
        assert HEADERS.items() <= dict(headers).items()
    assert client.get("/", headers={"host": "x"}).headers["x-frame-options"] == "DENY"
    for gone in ("/docs", "/redoc"):  # they load from other hosts
        assert client.get(gone).status_code == 404


def test_the_page_names_no_other_host(client: TestClient) -> None:
    for path in ("/", "/api", "/page.js", "/browse.js", "/page.css", "/icon.svg"):
        text = client.get(path).text
        text = text.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8000", "")
        assert "http" not in text.replace("https-", ""), path
        assert "innerHTML" not in text
        assert "style=" not in text


def test_openapi_describes_predict(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert list(paths) == ["/predict"]
    schema = json.dumps(paths["/predict"])
    assert "multipart/form-data" in schema
    assert "Answers" in schema


# the file of corrections


def said(name: str, proposed: str = "b") -> dict[str, Suggestion | None]:
    return {name: Suggestion(name, "label", "a", proposed)}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    whole = Corrections(tmp_path / "c.csv")
    whole.add({**said("1.png"), **said('with, "quotes"\nand line.png'), **said("3.png")})
    content = whole.path.read_bytes()
    last = content.index(b"3.png")
    for end in range(len(content)):
        whole.path.write_bytes(content[:end])
        rows = Corrections(whole.path).rows()
        assert len(rows) <= 2 or end > last
        if end >= last:
            assert len(rows) >= 2
    whole.path.write_bytes(content[:-3])
    again = Corrections(whole.path)
    again.add(said("4.png"))
    assert list(Corrections(whole.path).rows()) == [
        "1.png",
        'with, "quotes"\nand line.png',
        "4.png",
    ]


def test_two_servers_do_not_lose_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    pair = Corrections(path), Corrections(path)

    def add(which: int) -> None:
        for row in range(15):
            pair[which].add(said(f"{which}-{row}"))

    threads = [threading.Thread(target=add, args=(which % 2,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (*pair, Corrections(path)):
        assert len(one.rows()) == 30


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    done = threading.Event()

    def add() -> None:
        Corrections(path).add(said("1"))
        done.set()

    with lock_file(path):
        thread = threading.Thread(target=add)
        thread.start()
        assert not done.wait(0.2)
    thread.join()
    assert done.is_set()


def test_a_file_that_is_no_corrections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("what,ever\n1,2\n")
    with pytest.raises(CafeError, match="no column 'id'"):
        Corrections(path)
    assert path.read_text() == "what,ever\n1,2\n"


def test_a_torn_history_is_read(tmp_path: Path) -> None:
    (tmp_path / HISTORY).write_text('{"created": "x"}\n[1]\nnull\n{"created"')
    assert read_history(tmp_path) == []


# the command


def test_kill_in_the_middle_of_corrections(work: Path) -> None:
    import httpx

    with running(work) as (address, process):
        done: list[int] = []

        def say() -> None:
            with httpx.Client(base_url=address, timeout=120) as http:
                for row in range(300):
                    try:
                        change = {"changes": {row: (row + 1) % 10}}
                        http.post("/api/labels", json=change).raise_for_status()
                    except httpx.TransportError:
                        return
                    done.append(row)

        thread = threading.Thread(target=say)
        thread.start()
        wait_for(lambda: len(done) > 5)
        process.kill()
        thread.join()
    path = work / "model" / CORRECTIONS
    rows = Corrections(path).rows()
    assert 5 < len(done) < 300
    assert len(rows) in (len(done), len(done) + 1)  # the last may be on disk and not answered
    path.unlink()


def test_ctrl_c_ends_the_server(work: Path) -> None:
    import signal

    with running(work) as (_, process):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "cafe: interrupted; labels and heads are saved."
    assert "Traceback" not in err


def test_errors_of_the_command_are_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    from digits_run import call

    monkeypatch.chdir(work)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        answer = call(monkeypatch, capsys, "serve", "model", "--port", taken)
    assert "choose another --port, 0 takes a free one" in answer.err
    for words, message in (
        (("none",), "is not the folder of a model"),
        (("model", "--host", "256.1.1.1"), "choose another --host"),
        (("model", "--unlabelled", "none"), "no folder 'none'"),
        (("model", "--images", "none"), "unknown dataset 'none'"),
    ):
        answer = call(monkeypatch, capsys, "serve", *words, "--port", "0")
        assert answer.code in (1, 2)
        assert message in answer.err
        assert "Traceback" not in answer.err


def test_without_a_cache_predictions_are_served(work: Path, tmp_path: Path) -> None:
    model = cafe.load_model(work / "model", device="cpu")
    client = TestClient(Access(make_app(Session(model, None, Context()))), base_url=LOCAL)
    reply = client.post("/predict", files=sent(png())).json()["predictions"][0]
    assert reply["label"]
    assert client.post("/api/train").status_code == 422
    assert client.get("/api/images?view=all").json()["total"] == 0
    assert len(client.get("/api/classes").json()) == 10


def test_a_test_split_of_its_own_stays_the_estimate(tmp_path: Path) -> None:
    digits = some_digits()
    items = digits.splits["train"]
    splits = {"train": items[::2], "test": items[1::2]}
    make_model(tmp_path, replace(digits, splits=splits, source="theirs"))
    session = open_session(tmp_path)
    assert session.look is not None
    estimate = session.look.fitted.estimate
    assert estimate is not None
    assert (estimate.source, estimate.images) == ("test split", 150)
    assert not session.look.own.isnan().any()  # training images are judged too, in folds
    assert estimate == session.model.record.estimate


def test_what_is_missing_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cafe.serve.server import serve

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(CafeError, match=r"cafe-clip\[serve\]"):
        serve(work / "model", port=0)
