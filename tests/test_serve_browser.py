"""The page of `cafe serve` in a real browser: the whole loop, keys, a phone, dark, many images."""

from __future__ import annotations

import base64
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from headless import headless_browser
from serving import HOSTILE, make_model, running, some_digits, wait_for

import cafe
from cafe.errors import how_to_install
from cafe.serve.corrections import Corrections

DROP = """
const [name, code] = arguments, bytes = Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, {type: "image/png"}));
const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
document.querySelector("#drop").dispatchEvent(event);
"""

NO_SUCH_CLASS = """
const plain = window.fetch;
window.fetch = (path, options) => plain(path, options &&
  {...options, body: options.body.replace(/"1":\\d+/, '"1":99')});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason=how_to_install("serve"))
    with headless_browser(tmp_path_factory.mktemp("browser"), 1280) as driver:
        yield driver


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_model(tmp_path, some_digits())
    return tmp_path


def find(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def until(browser: Any, question: Callable[[Any], Any]) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException

    def asked() -> Any:
        try:
            return question(browser)
        except StaleElementReferenceException:  # the page has drawn it anew
            return None

    return wait_for(asked)


def press(browser: Any, *keys: str) -> None:
    def send(key: str) -> bool:
        browser.switch_to.active_element.send_keys(key)
        return True

    for key in keys:
        done = browser.find_element("id", "message").text
        until(browser, lambda _, key=key: send(key))
        until(browser, lambda b, done=done: b.find_element("id", "message").text != done)


def chosen_id(browser: Any) -> str:
    """The image that the panel shows."""
    panel = ".panel .id"
    title = until(browser, lambda b: b.find_element("css selector", panel).get_attribute("title"))
    return str(title)


def type_keys(browser: Any, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser, duration=0).send_keys(keys).perform()


def accuracy(browser: Any) -> float:
    return float(browser.find_element("id", "percent").text.split()[0])


def show(browser: Any, width: int, theme: str) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)


def test_the_whole_loop(browser: Any, work: Path, tmp_path: Path) -> None:
    right = [item.label for item in some_digits(0).splits["train"]]
    names = some_digits().class_names
    with running(work) as (address, _):
        browser.get(address)
        until(browser, lambda b: find(b, "#drop"))
        digits = some_digits()
        path = tmp_path / "p.png"
        digits.open_image(digits.splits["train"][100]).resize((64, 64)).save(path)
        browser.execute_script(DROP, "p.png", base64.b64encode(path.read_bytes()).decode())
        (label,) = until(browser, lambda b: find(b, ".answer .label"))
        assert label.text in names
        assert len(find(browser, ".answer meter")) == 5
        assert "The texts alone say" in find(browser, ".answer .texts")[0].text
        until(browser, lambda b: len(find(b, ".near img.tiny")) == 3)
        # labels, by the keyboard
        browser.get(f"{address}#check")
        until(browser, lambda b: find(b, ".card"))
        before = accuracy(browser)
        find(browser, ".card")[0].click()
        items = browser.execute_async_script(
            "const done = arguments[0];"
            "fetch('api/images?view=suspicious').then((r) => r.json()).then((v) => done(v.items))"
        )
        wanted, said = items[:16], {}
        for item in wanted:
            assert chosen_id(browser) == item["id"]
            top = [one["label"] for one in item["top"]]
            truth = right[item["row"]]
            assert names[truth] in {names[label] for label in top} | {names[item["label"]]}
            type_keys(browser, str(top.index(truth) + 1) if truth in top else "\ue007")
            said[item["id"]] = names[truth]
        file = Corrections(work / "model/corrections.csv")
        wait_for(lambda: len(file.rows()) == 16)  # keys wait for no answer
        assert {name: row.proposed for name, row in file.rows().items()} == said
        press(browser, "u")
        assert len(Corrections(work / "model/corrections.csv").rows()) == 15
        # by the mouse
        find(browser, ".choices button")[1].click()
        until(browser, lambda b: "1 image is" not in find(b, "#saved")[0].text)
        wait_for(lambda: len(Corrections(work / "model/corrections.csv").rows()) == 16)
        browser.find_element("id", "train").click()
        until(browser, lambda b: "Held-out accuracy" in find(b, "#message")[0].text)
        after = accuracy(browser)
        assert after > before + 2
        browser.get(f"{address}#history")
        browser.refresh()
        until(browser, lambda b: len(find(b, "tbody tr")) == 2)
        assert accuracy(browser) == after
        assert "16 images are in" in browser.find_element("id", "saved").text
        # nothing is asked of another host, and nothing fails
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
        events = [
            json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
        ]
        asked = {e["params"]["request"]["url"] for e in events if "request" in e["params"]}
        assert {
            u for u in asked if not u.startswith((address, "blob:", "data:", "chrome:"))
        } == set()
    with running(work) as (address, _):  # a new server keeps it
        browser.get(address)
        until(browser, lambda b: "16 images are in" in find(b, "#saved")[0].text)
        assert accuracy(browser) == after


def test_another_tab_shows_what_was_said(browser: Any, work: Path) -> None:
    with running(work) as (address, _):
        browser.get(f"{address}#browse")
        until(browser, lambda b: find(b, ".card"))
        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(f"{address}#browse")
        until(browser, lambda b: find(b, ".card"))
        find(browser, ".card")[1].click()
        until(browser, lambda b: len(find(b, ".choices button")) > 1)  # the images are looked at
        find(browser, ".choices button")[1].click()
        until(browser, lambda b: find(b, ".card .right"))
        browser.close()
        browser.switch_to.window(first)
        until(browser, lambda b: find(b, ".card .right"))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no process limits another here")
def test_labels_wait_until_the_file_can_be_written(browser: Any, work: Path) -> None:
    """As on a full disk, or one that is mounted read-only."""
    file, limit = work / "model/corrections.csv", resource.RLIMIT_FSIZE
    with running(work) as (address, server):
        browser.get(f"{address}#browse")
        until(browser, lambda b: find(b, ".card"))
        before = resource.prlimit(server.pid, limit)
        resource.prlimit(server.pid, limit, (0, before[1]))
        for _ in range(3):  # in one step: the panel is drawn again when an answer comes
            browser.execute_script("document.querySelector('.choices .keep').click()")
        message = "3 labels are not saved yet, and sent again until saved: cannot write"
        until(browser, lambda b: [e for e in find(b, "#message.bad") if message in e.text])
        assert not file.exists()
        browser.execute_script(NO_SUCH_CLASS)  # as after a restart with another model
        message = "A label is not saved, and is not sent again: no class 99;"
        until(browser, lambda b: [e for e in find(b, "#message.bad") if message in e.text])
        resource.prlimit(server.pid, limit, before)
        until(browser, lambda b: "2 labels that were not saved are" in find(b, "#message")[0].text)
        assert len(Corrections(file).rows()) == 2
        until(browser, lambda b: len(find(b, ".card .right")) == 2)
        browser.get_log("browser")  # the refused requests, which the next test does not look for


def test_a_phone_and_the_dark(browser: Any, work: Path) -> None:
    grounds = []
    with running(work) as (address, _):
        for theme in ("light", "dark"):
            show(browser, 390, theme)
            for view in ("predict", "browse", "check", "next", "history"):
                browser.get(f"{address}#{view}")
                until(browser, lambda b: find(b, "main *"))
                width = browser.execute_script("return document.documentElement.scrollWidth")
                assert width <= 390, view
            script = "return getComputedStyle(document.body).backgroundColor"
            grounds.append(browser.execute_script(script))
    show(browser, 1280, "light")
    assert grounds == ["rgb(253, 253, 252)", "rgb(22, 24, 27)"]


def test_names_of_classes_are_shown_and_not_run(browser: Any, tmp_path: Path) -> None:
    make_model(tmp_path, some_digits(names=dict(enumerate(HOSTILE))))
    with running(tmp_path) as (address, _):
        for view in ("browse", "check", "next"):
            browser.get(f"{address}#{view}")
            until(browser, lambda b: find(b, ".card"))
            assert find(browser, "main script") == []
        browser.get(f"{address}#browse")
        names = until(browser, lambda b: [c.text for c in find(b, "#class option")])
        assert any(name.startswith("<script>alert(1)</script>") for name in names)
        assert any(name.startswith("new\\u000aline") for name in names)
        assert any(name.startswith("\\u202egnp.evil") for name in names)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 1280


def test_ten_thousand_images(browser: Any, tmp_path: Path) -> None:
    """A page holds a few of them, and the next page comes at once."""
    import numpy as np

    from cafe.store import Block, write_cache

    make_model(tmp_path, some_digits())
    cache = cafe.FeatureCache.open(tmp_path / "cache/digits/nano.glyphs.h5")
    read = cache.read("train", dtype=np.float32)
    x, y = (np.tile(a, (34, 1)) for a in (read.features, read.labels[:, None]))
    x = x + np.random.default_rng(0).normal(0, 0.01, x.shape).astype(np.float32)
    ids = [f"{row}.png" for row in range(len(x))]
    block = Block(ids, y[:, 0].astype(np.int32), x)
    header = replace(cache.header, dataset="many")
    (tmp_path / "cache/many").mkdir()
    write_cache(tmp_path / "cache/many/nano.glyphs.h5", header, {"train": [block]})
    shutil.rmtree(tmp_path / "model")
    large = cafe.FeatureCache.open(tmp_path / "cache/many/nano.glyphs.h5")
    cafe.train(large, method="nearest-class", output=tmp_path / "model", device="cpu")
    with running(tmp_path) as (address, _):
        browser.get(f"{address}#browse")
        until(browser, lambda b: len(find(b, ".card")) == 60)
        assert "1–60 of 10,200" in find(browser, ".end")[0].text
        assert browser.execute_script("return document.querySelectorAll('*').length") < 1500
        for page in range(1, 6):
            find(browser, "[aria-label='next page']")[0].click()
            until(browser, lambda b, page=page: f"{60 * page + 1}–" in find(b, ".end")[0].text)
        started = time.monotonic()
        browser.execute_script("return 1")  # the page itself is not busy
        assert time.monotonic() - started < 5
