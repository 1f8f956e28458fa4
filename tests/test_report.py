"""`cafe report`: one page that works offline, in words and in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from headless import headless_browser
from making import draw_image, make_header

from cafe.engine import Recipe
from cafe.errors import CafeError, InputError
from cafe.report import collect, write_report
from cafe.report.confusions import ConfusionMap
from cafe.report.feature_map import MOST_POINTS, points_of_map, project
from cafe.report.figures import accuracy
from cafe.report.head_figures import confusions, gains
from cafe.report.page import _link as page_link
from cafe.report.page import render
from cafe.report.ranking import Standing, ranking
from cafe.report.telling_apart import overview, titles
from cafe.results.saved_head import load_head
from cafe.store import Block, FeatureCache, write_cache
from cafe.study.compare import compare
from cafe.study.grid.search import search
from cafe.study.grid.space import GridSpace
from cafe_cli.main import main

FIGURES = 13
EVIL = "<script>alert(1)</script> & co"
HOSTILE = (
    """ "><script>alert(1)</script><img src=x onerror='alert(2)'></title></style><!--"""
    """<a href="http://example.com">{{ 7 * 7 }}</a>{% x %}%{y}@0&lt;"""
)


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
    swept = search(cache, sweep, runs=home / "grids", command="cafe grid dtd/RN50.none --x")
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
    inside = [link for link in links if link and not link.startswith(("#", "data:"))]
    assert all(links)
    assert inside
    assert all(link.startswith("images/test/") for link in inside)  # of the images, beside the page
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
    assert "--method zero-shot,nearest-class,clip-adapter --shots 1,2 --seeds 0,1" in text


def test_what_is_confused_has_pictures(read: Reader) -> None:
    pictures = read.all("img")
    assert pictures
    assert all((one["src"] or "").startswith("data:image/jpeg;base64,") for one in pictures)
    assert all((one["alt"] or "").startswith("test/") for one in pictures)


def test_the_best_method_is_in_the_headline(runs: list[Path]) -> None:
    (found,) = collect(runs[:1])
    best = max((r for r in found.results.values() if r.shots == 2), key=lambda r: r.accuracy.mean)
    assert found.focus == (best.method, 2)
    text = " ".join(Reader(render([found])).words)
    assert f"{best.method} is the best of 3 methods on dtd" in text
    assert "With 2 training images per class" in text
    (asked,) = collect(runs[:1], method="zero-shot")
    assert asked.focus == ("zero-shot", 2)
    assert f"{best.method} is the best of 3 methods on dtd" in render([asked])


def test_methods_are_ranked_inside_their_groups(runs: list[Path]) -> None:
    results = collect(runs[:1])[0].results.values()
    (everything,) = ranking(results, 2)
    means = [result.accuracy.mean for result in everything.results]
    assert means == sorted(means, reverse=True)
    words = "transductive (the test split)"
    pooled = [replace(everything.results[0], method="pooled", learning=words)]
    first, second = ranking([*pooled, *results], 2)
    assert first == everything
    assert (first.group, second) == ("inductive", Standing(words, pooled))


def test_what_saw_more_images_stands_apart_on_the_page(runs: list[Path]) -> None:
    (found,) = collect(runs[:1])
    words = "transductive (the test split)"
    more = {
        ("pooled", shots): replace(result, method="pooled", learning=words)
        for (method, shots), result in found.results.items()
        if method == "zero-shot"
    }
    reader = Reader(render([replace(found, results={**more, **found.results})]))
    text = " ".join(reader.words)
    assert "is the best of 3 methods on dtd" in text
    assert f"{words[0].upper()}{words[1:]}: pooled has " in text
    headings = [cell for cell in reader.all("th") if cell.get("scope") == "rowgroup"]
    assert len(headings) == 2


def test_at_most_six_lines_are_in_colour(runs: list[Path]) -> None:
    (found,) = collect(runs[:1])
    many = {
        (f"m{place}", shots): replace(result, method=f"m{place}")
        for (_, shots), result in found.results.items()
        for place in range(9)
    }
    figure = accuracy(replace(found, results=many, focus=("m0", 2), published=()))
    assert [trace["meta"]["on"] for trace in figure.data] == [True] * 6 + [False] * 3
    assert {trace["meta"]["off"] for trace in figure.data} == {"grey"}


def test_several_runs_are_told_apart_by_what_differs(runs: list[Path]) -> None:
    compared, swept = collect(runs)
    assert titles([compared]) == ["dtd, RN50.none (comparison)"]
    assert titles([compared, swept]) == ["comparison", "grid"]
    twice = titles([compared, replace(compared, folder=Path("elsewhere"))])
    assert twice == [compared.folder.name, "elsewhere"]
    assert "validation" in overview([compared, swept])


def test_the_worst_images_are_wrong_and_linked(home: Path, runs: list[Path]) -> None:
    (found,) = collect(runs[:1], home / "images")
    assert found.analysis is not None
    losses = found.analysis.losses
    assert losses
    assert all(loss.label != loss.guess and 0 < loss.probability <= 1 for loss in losses)
    text = render([found], home / "pages")
    assert f'href="../images/test/{losses[0].row}.png"' in text
    assert found.confusions is not None
    assert set(found.confusions.classes) == set(range(4))


@pytest.mark.parametrize(
    "name", ["javascript:alert(1)", "a b/\udce9.png", "//host/x", '"><script>', "#", "?a=b&c"]
)
def test_a_link_is_a_path_beside_the_page(name: str, tmp_path: Path) -> None:
    link = page_link(tmp_path / "images" / name.lstrip("/"), tmp_path)
    assert re.fullmatch(r"images/[\w%./~-]+", link)
    assert os.fsdecode(unquote_to_bytes(link)) == f"images/{name.lstrip('/')}"


def test_a_run_without_predictions_has_its_most_confused_pairs(
    runs: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    (before,) = collect([copy])
    (copy / "predictions.csv").unlink()
    (after,) = collect([copy])
    assert before.confusions is not None
    assert after.confusions is not None
    assert after.confusions.shares == pytest.approx(before.confusions.shares, abs=0.01)


def test_class_names_are_text(read: Reader, page: Path) -> None:
    assert EVIL in " ".join(read.words)
    assert "<script>alert" not in page.read_text(encoding="utf-8")


def test_figures_are_described(read: Reader) -> None:
    plots = [a for a in read.all("div") if "plot" in (a.get("class") or "")]
    # accuracy, gains, confusions, reliability and a map of two sides of two runs, and a grid
    assert len(plots) == FIGURES
    assert all(one["role"] == "img" and one["aria-label"] for one in plots)
    ids = [a["id"] for _, a in read.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_a_cell_of_the_heat_map_holds_its_seeds(runs: list[Path]) -> None:
    (swept,) = collect([runs[1]])
    (heat_map,) = swept.heat_maps
    cells = heat_map.cells
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
    main()  # it returns where all is well
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_takes_the_newest_run(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], [runs[0].name]):
        monkeypatch.setattr(sys, "argv", ["cafe", "report", *words, "--runs", str(runs[0].parent)])
        main()
        assert capsys.readouterr().out == "report.html\n"
    monkeypatch.setattr(sys, "argv", ["cafe", "report", "no-such", "--runs", str(runs[0].parent)])
    with pytest.raises(SystemExit):
        main()
    assert "no-such" in capsys.readouterr().err


def suffixed(value: Any, suffix: str, own: bool = False) -> Any:
    """JSON values with a suffix on all that is a name or a text, methods with files excepted.

    The name of a method holds no slash: such a record is refused.
    """
    if isinstance(value, dict):
        kept = ("cache", "cache_key", "validation", "created", "source", "precision")
        return {
            (name + suffix if own else name): inner
            if name in kept
            else suffixed(
                inner,
                suffix.replace("/", "") if name == "method" else suffix,
                own or name in ("versions", "left_out"),
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [suffixed(inner, suffix, own) for inner in value]
    keep = not isinstance(value, str) or value in ("clip-adapter", "zero-shot", "D/2", "D/4")
    return value if keep else value + suffix


def page_with_names(folder: Path, suffix: str) -> Path:
    """A page of a comparison and a grid in which every name of cache and record has a suffix."""
    y = np.arange(4, dtype=np.int32).repeat(6)
    noise = np.random.default_rng(0)
    x = np.eye(4, 8, dtype="f4")[y] + 0.8 * noise.standard_normal((24, 8), np.float32)
    ids = [f"{row}{suffix}.png" for row in range(24)]
    for row, name in enumerate(ids):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(row).save(path)
    header = make_header(
        dataset=f"mine{suffix}",
        class_names=tuple(f"{name}{suffix}" for name in "abcd"),
        sentences=tuple((f"a {name}{suffix}",) for name in "abcd"),
        text_features=np.eye(4, 8, dtype="f4")[:, None]
        + 0.3 * np.eye(4, 8, 1, dtype="f4")[:, None],
    )
    cache = folder / "cache.h5"
    write_cache(cache, header, {split: [Block(ids, y, x)] for split in ("train", "val", "test")})
    methods = ["zero-shot", "nearest-class", "clip-adapter"]
    space = GridSpace(
        ratios=[0.2],
        bottlenecks=["D/2", "D/4"],
        shots=[2],
        seeds=[0],
        validation="full",
        recipe=Recipe(epochs=2),
    )
    compared = compare(cache, methods=methods, shots=[1, 2], seeds=2, runs=folder / "a").folder
    searched = search(FeatureCache.open(cache), space, runs=folder / "b").record.folder
    assert compared is not None
    assert searched is not None
    for path in (compared / "record.json", compared / "page.json", searched / "record.json"):
        values = suffixed(json.loads(path.read_text()), suffix)
        values["left_out"] = {f"gda{suffix}": f"it is slow{suffix}"}
        path.write_text(json.dumps(values))
    path = searched / "grid.jsonl"
    path.write_text(path.read_text().replace("D/4", json.dumps(f"D/4{suffix}")[1:-1]))
    runs, page = [compared, searched], folder / "page.html"
    return write_report(runs, page, images=folder / "images", method="clip-adapter")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_with_names(tmp_path_factory.mktemp("hostile"), HOSTILE)


def test_names_are_never_markup(hostile: Path, tmp_path: Path) -> None:
    benign = Reader(page_with_names(tmp_path, " harmless").read_text(encoding="utf-8"))
    text = hostile.read_text(encoding="utf-8")
    reader = Reader(text)
    tags, expected = ([(tag, sorted(a)) for tag, a in page.tags] for page in (reader, benign))
    assert tags == expected
    words = " ".join(reader.words)
    for name in ("mine", "tiny", "a", "gda", "D/4", "it is slow"):
        assert f"{name}{HOSTILE}" in words
    assert f"nearest-class{HOSTILE.replace('/', '')}" in words
    titles = {image["title"] for image in reader.all("img")}
    assert titles
    assert all(title and title.endswith(f"{HOSTILE}.png") for title in titles)
    ids = {a["id"] for a in reader.all("div") if "plot" in (a.get("class") or "")}
    blocks = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', text, re.DOTALL)
    plots, cells = map(json.loads, blocks)
    assert {plot["id"] for plot in plots} == ids
    assert f"2|0.2|D/4{HOSTILE}" in cells["run2"]
    # what plotly shows; it reads some HTML, and a cell's key is for the script alone
    shown = [{**trace, "customdata": None} for plot in plots for trace in plot["data"]]
    assert "<" not in json.dumps(shown).replace("<extra></extra>", "")


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser that shows the page."""
    with headless_browser(tmp_path_factory.mktemp("browser"), 1100) as driver:
        driver.get(page.as_uri())
        _wait_until_drawn(driver)
        yield driver


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
    assert len(plots) == FIGURES
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
    for _ in range(10):  # a click counts where the cell below is known: later in a busy browser
        chain = ActionChains(browser).move_by_offset(1, 1).move_to_element_with_offset(heat, **away)
        chain.pause(0.3).click().pause(0.5).perform()
        if panel.text != "No cell is chosen.":
            break
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


def test_a_column_sorts_its_table_by_the_keyboard(browser: Any) -> None:
    def column(number: int) -> list[str]:
        script = (
            "return [...document.querySelector('#run1 .scroll tbody').rows]"
            ".map((row) => row.cells[arguments[0]].textContent)"
        )
        cells: list[str] = browser.execute_script(script, number)
        return cells

    names, best = browser.find_elements("css selector", "#run1 .scroll thead")[0].find_elements(
        "css selector", "button"
    )[:2]
    was = column(0)
    for way in ("descending", "ascending"):
        best.send_keys("\ue007")  # Enter
        values = [float(cell.split()[0]) for cell in column(1)]
        assert values == sorted(values, reverse=way == "descending")
        heads = browser.find_elements("css selector", "#run1 .scroll [aria-sort]")
        assert [head.get_attribute("aria-sort") for head in heads] == [way]
    names.send_keys(" ")
    assert column(0) == sorted(was)


def _outside(driver: Any, width: int = 390) -> list[str]:
    """What a narrow screen does not show, or what makes the page scroll sideways."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.5)
    found = driver.execute_script(
        "const shown = 'h1, h2, h3, p, img, .main-svg, .legend button, figcaption, summary';"
        "return [...document.querySelectorAll(shown)].filter((e) => {"
        "  const r = e.getBoundingClientRect();"
        "  return r.width && (r.left < -1 || r.right > innerWidth + 1); }).map((e) => e.outerHTML)"
    )
    wide = driver.execute_script("return document.documentElement.scrollWidth") > width
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return [*found, *(["the page"] if wide else [])]


def test_a_phone_shows_all_of_it(browser: Any) -> None:
    assert _outside(browser) == []


def test_a_click_on_a_name_shows_its_line(browser: Any) -> None:
    name = "document.querySelector('#run1 .legend button')"
    for pressed in ("false", "true"):
        browser.execute_script(f"{name}.click()")
        assert browser.execute_script(f"return {name}.ariaPressed") == pressed


def test_a_click_on_a_confusion_shows_its_pair(browser: Any) -> None:
    from selenium.webdriver import ActionChains

    heat = browser.find_element("css selector", "#run1-confusions .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", heat)
    status, size = browser.find_element("id", "run1-pair"), heat.size
    off_diagonal = {"xoffset": int(size["width"] * 0.37), "yoffset": -int(size["height"] * 0.37)}
    for _ in range(10):  # a busy machine may miss a click
        move = ActionChains(browser).move_to_element_with_offset(heat, **off_diagonal)
        move.pause(0.3).click().pause(0.3).perform()
        if status.text != "No pair is chosen.":
            break
        ActionChains(browser).move_by_offset(2, 2).perform()
    assert "% of ash are taken for " in status.text


def test_of_many_classes_those_that_changed_are_shown() -> None:
    by_class = [("up", 5.0), *((f"class {c}", 0.0) for c in range(998)), ("down", -2.0)]
    figure = gains(by_class, "knn")
    assert figure.data[0]["y"] == ["down", "up"]
    assert figure.layout["height"] < 200
    assert figure.label.endswith("of 1000 classes and loses on 1. The others are not shown.")
    assert len(gains(by_class[:20], "knn").data[0]["y"]) == 20


def test_a_class_in_colour_has_all_of_its_images_on_the_map() -> None:
    """An even draw of 1,000 of 4,000 images would show one image of each of 1,000 classes."""
    y = torch.arange(1000).repeat_interleave(4)
    rows = points_of_map(y)
    assert len(rows) == len(rows.unique()) == MOST_POINTS
    assert (y[rows].bincount(minlength=1000)[:24] == 4).all()
    assert torch.equal(points_of_map(y[:800]), torch.arange(800))
    assert points_of_map(torch.arange(3).repeat(700)).tolist() == sorted(
        np.linspace(0, 2099, MOST_POINTS).astype(int).tolist()
    )


def test_a_heat_map_begins_at_zero() -> None:
    """So that the palest cell is one of no image, and not the least confused pair."""
    pairs = {(0, 1): 6.25, (1, 0): 29.5, (1, 2): 12.0}
    (heat,) = confusions(ConfusionMap([0, 1, 2], 3, pairs), ("a", "b", "c")).data
    assert (heat["zmin"], heat["zmax"]) == (0, 29.5)
    assert heat["text"][0] == ["", "6.2", ""]


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


def test_a_browser_runs_no_script_but_the_page_s_own(browser: Any, hostile: Path) -> None:
    browser.get(hostile.as_uri())
    _wait_until_drawn(browser)
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", "script")) == 4
    assert browser.find_elements("css selector", ".plot a, [onerror]") == []
    (axis,) = browser.find_elements("css selector", "#run1-gains .yaxislayer-above")
    shown = axis.get_attribute("textContent")
    assert """a "><script>alert(1)…""" in shown  # long names lose their middle
    buttons = browser.find_elements("css selector", "#run1 .legend button")
    names = [button.get_attribute("textContent") for button in buttons]
    assert any(f"a{HOSTILE}" in name for name in names)
    assert _outside(browser) == []
    added = (
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
    )
    ran = browser.execute_script(f"{added} document.body.append(script); return window.ran ?? 0")
    assert ran == 0
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
