"""Make the pictures of docs/gallery.md, from runs on the digits, in a headless browser.

Run it as `python scripts/make_gallery.py`; it needs cafe's extra `browser` and a chromium with its
chromedriver. It takes a minute.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import cafe
from cafe.curation.page import write_check_page
from cafe.datasets import load_dataset

IMAGES = Path(__file__).parents[1] / "docs/img"
SHOTS = {  # name -> width, theme, first element, last element
    "report-headline": (1100, "light", "header", "#run1-accuracy ~ figcaption"),
    "report-mistakes": (1100, "light", ".beside", ".losses"),
    "report-map": (1100, "dark", ".sides", ".legend[data-plots$='map-after']"),
    "report-phone": (390, "dark", "header", "#run1-accuracy ~ figcaption"),
}


CHECK = (1100, "light", "h1", "ul.images > li:nth-child(18)")
SERVE = (1100, "dark", "header", ".card:nth-child(20)")


def main() -> None:
    """Fit, write a page and take its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cache = cafe.Extractor("nano").extract("digits")
        methods = ["zero-shot", "nearest-class", "clip-adapter", "tip-adapter", "gda", "knn"]
        methods += ["taskres", "clap", "cross-modal", "lda-prior", "map-probe"]
        cafe.compare(cache, methods=methods, shots=[1, 2, 4, 8, 16], runs="runs")
        page = cafe.write_report(["runs"], "report.html", method="clip-adapter")
        write_digits(Path("photos"))
        checked = write_check_page(cafe.check("photos", model="nano"), "check.html")
        cafe.train("photos", model="nano", method="gda", output="model")
        browser = open_browser(Path(folder) / "browser")
        try:
            for name, shot in SHOTS.items():
                take(browser, page.resolve().as_uri(), IMAGES / f"{name}.png", *shot)
            take(browser, checked.resolve().as_uri(), IMAGES / "check.png", *CHECK)
            with served() as address:
                take(browser, f"{address}#check", IMAGES / "serve.png", *SERVE)
        finally:
            browser.quit()


def write_digits(folder: Path) -> None:
    """A folder of 600 digits, of which one in twenty lies in the folder of the next class."""
    digits = load_dataset("digits")
    for row, item in enumerate(digits.splits["train"]):
        label = (item.label + (row % 20 == 0)) % 10
        path = folder / digits.class_names[label] / f"{item.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digits.open_image(item).resize((64, 64)).save(path)


@contextmanager
def served() -> Iterator[str]:
    """`cafe serve model`: its address."""
    words = [sys.executable, "-m", "cafe_cli", "serve", "model", "--images", "photos", "--port"]
    with subprocess.Popen(  # noqa: S603 - its own command
        [*words, "0"], text=True, stdout=subprocess.PIPE
    ) as server:
        try:
            yield str(server.stdout.readline()).strip() if server.stdout else ""
        finally:
            server.terminate()


def open_browser(profile: Path) -> Any:
    """A headless chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in ("headless=new", "no-sandbox", "hide-scrollbars", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def take(
    browser: Any, url: str, target: Path, width: int, theme: str, first: str, last: str
) -> None:
    """One picture: what lies between two elements of the page."""
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    is_there = "return document.documentElement.dataset.drawn || (document.querySelector("
    is_there += "arguments[0]) && !document.querySelector('.plot'))"
    for _ in range(120):
        if browser.execute_script(is_there, last):
            break
        time.sleep(0.25)
    time.sleep(1)
    ends = "const box = (s) => document.querySelector(s).getBoundingClientRect();"
    top = browser.execute_script(f"{ends} return box(arguments[0]).top + scrollY", first)
    bottom = browser.execute_script(f"{ends} return box(arguments[0]).bottom + scrollY", last)
    top, bottom = max(0, top - 16), bottom + 12  # below is less: what comes next is not cut
    clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}
    wanted = {"captureBeyondViewport": True, "clip": clip}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", wanted)
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        image.convert("RGB").save(target, optimize=True)


if __name__ == "__main__":
    main()
