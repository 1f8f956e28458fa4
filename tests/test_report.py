"""`cafe report`: one page that works offline, in words and in a real browser."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import draw_image, make_header

from cafe.engine import Recipe
from cafe.errors import CafeError, InputError
from cafe.report import collect, write_report
from cafe.report.analysis import project
from cafe.report.figures import heat_cells
from cafe.report.page import render
from cafe.results.saved_head import load_head
from cafe.store import Block, FeatureCache, write_cache
from cafe.study.compare import compare
from cafe.study.grid.search import grid
from cafe.study.grid.space import GridSpace
from cafe_cli.main import main

EVIL = "<script>alert(1)</script> & co"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four classes with overlap, images of the test split beside it."""
    folder = tmp_path_factory.mktemp("report")
    noise = np.random.default_rng(0)
    centres = noise.standard_normal((4, 8), np.float32)
    splits = {}
    for split, count in (("train", 4), ("val", 2), ("test", 6)):
        y = np.arange(4, dtype=np.int32).repeat(count)
        x = centres[y] + 1.5 * noise.standard_normal((len(y), 8), np.float32)
        splits[split] = [Block([f"{split}/{row}.png" for row in range(len(y))], y, x)]
    (folder / "images" / "test").mkdir(parents=True)
    for row in range(24):
        draw_image(row).save(folder / "images" / "test" / f"{row}.png")
    header = make_header(
        dataset="dtd",
        model="RN50",
        class_names=("ash", "birch", EVIL, "Ölweide"),
        sentences=tuple((f"a {c}",) for c in "abcd"),
        text_features=centres[:, None] + noise.standard_normal((4, 1, 8), np.float32),
    )
    write_cache(folder / "dtd" / "RN50.none.h5", header, splits)
    return folder


@pytest.fixture(scope="module")
def runs(home: Path) -> list[Path]:
    """A comparison and a grid."""
    cache = FeatureCache.open(home / "dtd" / "RN50.none.h5")
    methods = ["zero-shot", "nearest-class", "clip-adapter"]
    found = compare(cache, methods=methods, shots=[1, 2], seeds=2, runs=home / "runs")
    sweep = GridSpace(
        ratios=[0.2, 0.6],
        bottlenecks=["D/2", "D/4"],
        shots=[2],
        seeds=[0, 1],
        validation="full",
        recipe=Recipe(epochs=2),
    )
    swept = grid(cache, sweep, runs=home / "grids", command="cafe grid dtd/RN50.none --x")
    assert found.folder is not None
    assert swept.record.folder is not None
    return [found.folder, swept.record.folder]


@pytest.fixture(scope="module")
def page(home: Path, runs: list[Path]) -> Path:
    return write_report(runs, home / "report.html", images=home / "images")


class Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def test_it_names_no_host(read: Reader) -> None:
    links = [a[name] for _, a in read.tags for name in ("src", "href") if name in a]
    assert links
    assert all(link and link.startswith(("#", "data:")) for link in links)
    (policy,) = (a["content"] for a in read.all("meta") if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_its_tables_can_be_read_without_a_script(read: Reader, runs: list[Path]) -> None:
    text = " ".join(read.words)
    record = json.loads((runs[0] / "record.json").read_text())
    for row in record["results"]:
        assert f"{row['accuracy']['mean']:.2f}" in text
    for row in record["differences"]:
        assert f"{row['accuracy']['mean']:+.2f}" in text
    for word in ("45.80", "arXiv 2110.04544", "Protocol", "nested draws", "by class"):
        assert word in text
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(cell.get("scope") for cell in read.all("th"))


def test_it_says_how_to_get_each_number_again(read: Reader) -> None:
    text = " ".join(read.words)
    assert "cafe grid dtd/RN50.none --x" in text
    assert "--methods zero-shot,nearest-class,clip-adapter --shots 1,2 --seeds 0,1" in text


def test_what_is_confused_has_pictures(read: Reader) -> None:
    pictures = read.all("img")
    assert pictures
    assert all((one["src"] or "").startswith("data:image/jpeg;base64,") for one in pictures)
    assert all((one["alt"] or "").startswith("test/") for one in pictures)


def test_class_names_are_text(read: Reader, page: Path) -> None:
    assert EVIL in " ".join(read.words)
    assert "<script>alert" not in page.read_text(encoding="utf-8")


def test_figures_are_described(read: Reader) -> None:
    plots = [a for a in read.all("div") if "plot" in (a.get("class") or "")]
    assert len(plots) == 9  # accuracy, gains, reliability and map of two runs, one heat map
    assert all(one["role"] == "img" and one["aria-label"] for one in plots)
    ids = [a["id"] for _, a in read.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_a_cell_of_the_heat_map_holds_its_seeds(runs: list[Path]) -> None:
    (swept,) = collect([runs[1]])
    cells = heat_cells(swept, 2)
    assert set(cells) == {(ratio, width) for ratio in (0.2, 0.6) for width in ("D/2", "D/4")}
    assert all([row["seed"] for row in rows] == [0, 1] for rows in cells.values())


def test_a_run_without_its_cache(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    record = json.loads((copy / "record.json").read_text())
    record["cache"] = str(tmp_path / "gone.h5")
    (copy / "record.json").write_text(json.dumps(record))
    (found,) = collect([copy])
    assert found.analysis is None
    assert "is not at hand" in found.notes[0]
    (tmp_path / "gone.h5").write_text("no cache")
    assert "cannot be read" in collect([copy])[0].notes[0]
    text = render([found])
    assert "as fitted" in text
    assert "two dimensions" not in text


def test_a_cache_that_has_changed(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    record = json.loads((copy / "record.json").read_text())
    record["cache_key"]["precision"] = "bf16"
    (copy / "record.json").write_text(json.dumps(record))
    (found,) = collect([copy])
    assert "has changed since (precision is fp32" in found.notes[0]


def test_base_to_new_has_its_table(home: Path) -> None:
    found = compare(
        home / "dtd" / "RN50.none.h5",
        methods=["zero-shot"],
        shots=[1],
        seeds=1,
        base_to_new=True,
        runs=home / "halves",
    )
    assert found.folder is not None
    assert "harmonic mean" in render(collect([found.folder]))


def test_published_numbers_stand_beside_the_same_datasets_alone(runs: list[Path]) -> None:
    (found,) = collect(runs[:1])
    assert [row["cafe"] for row in found.comparable] == ["zero-shot", "clip-adapter"]
    assert found.comparable == found.published
    assert any("Unlike the published protocol: dtd:" in note for note in found.notes)


def test_an_average_brings_its_runs(home: Path) -> None:
    cache = home / "dtd" / "RN50.none.h5"
    found = compare([cache, cache], methods=["zero-shot"], shots=[1], seeds=1, runs=home / "many")
    assert found.folder is not None
    assert len(collect([found.folder])) == 3


def test_only_an_adapter_moves_the_features(runs: list[Path]) -> None:
    head = load_head(runs[0] / "clip-adapter.2shot.seed0.safetensors").head
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    adapted = head.adapted(x)
    assert adapted is not None
    scale, weights = head.params["logit_scale"], head.tensors()["weights"]
    torch.testing.assert_close(scale * adapted @ weights.T, head.logits(x))
    plain = load_head(runs[0] / "zero-shot.2shot.seed0.safetensors").head
    assert plain.adapted(x) is None


def test_many_points_are_mapped_by_tsne() -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype("f4")
    before, words = project(x)
    after, _ = project(x + 0.01, before)
    assert np.shape(before) == np.shape(after) == (64, 2)
    assert "t-SNE" in words
    assert "PCA" in project(x[:20])[1]


def test_bad_runs(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(InputError, match="no run to report on"):
        collect([])
    with pytest.raises(CafeError, match="is neither a run"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(CafeError, match="cannot write the page"):
        write_report(runs[1:], tmp_path / "no" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_the_command(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    target = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["cafe", "report", str(runs[1]), "-o", str(target)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,900",
)


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser that shows the page."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium with its chromedriver; apt-get install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'cafe-clip[browser]'")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get_log("performance")  # the browser's own first page
        driver.get(page.as_uri())
        _wait_until_drawn(driver)
        yield driver
    finally:
        driver.quit()


def _wait_until_drawn(driver: Any) -> None:
    for _ in range(120):
        if driver.execute_script("return document.documentElement.dataset.drawn"):
            return
        time.sleep(0.25)
    raise AssertionError(driver.get_log("browser"))


def test_a_browser_asks_no_host_and_finds_no_error(browser: Any, page: Path) -> None:
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if "request" in e["params"]}
    outside = {url for url in asked if not url.startswith(("data:", "blob:", "chrome:"))}
    assert outside == {page.as_uri()}


def test_a_browser_draws_each_figure(browser: Any) -> None:
    plots = browser.find_elements("css selector", ".plot")
    assert len(plots) == 9
    for plot in plots:
        assert plot.find_elements("css selector", ".main-svg")
        marks = ".point, .lines, .heatmaplayer image"
        assert plot.find_elements("css selector", marks), plot.get_attribute("id")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 1100


def test_a_click_on_a_cell_shows_its_runs(browser: Any, runs: list[Path]) -> None:
    from selenium.webdriver import ActionChains

    panel = browser.find_element("id", "run2-panel")
    assert panel.text == "No cell is chosen."
    heat = browser.find_element("css selector", "#run2-heat-2 .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", heat)
    size = heat.size
    away = {"xoffset": -int(size["width"] * 0.25), "yoffset": int(size["height"] * 0.25)}
    ActionChains(browser).move_to_element_with_offset(heat, **away).pause(0.3).click().perform()
    for _ in range(40):
        if panel.text != "No cell is chosen.":
            break
        time.sleep(0.1)
    assert panel.text.startswith("ratio 0.2, bottleneck D/2, 2 shots")
    assert len(panel.find_elements("css selector", "tbody tr")) == 2
    browser.execute_script(
        "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    )
    button = browser.find_element("css selector", 'button[data-cell="2|0.6|D/4"]')
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    assert panel.text.startswith("ratio 0.6, bottleneck D/4, 2 shots")
    assert button.get_attribute("aria-pressed") == "true"


def test_dark_and_light(browser: Any) -> None:
    grounds = []
    for theme in ("dark", "light"):
        wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        time.sleep(0.5)
        script = "return getComputedStyle(document.body).backgroundColor"
        grounds.append(browser.execute_script(script))
    assert grounds == ["rgb(22, 24, 27)", "rgb(253, 253, 252)"]
    assert browser.get_log("browser") == []
