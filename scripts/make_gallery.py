"""Make the pictures of docs/gallery.md, from runs on the digits, in a headless browser.

Run it as `python scripts/make_gallery.py`; it needs cafe's extra `browser` and a chromium with its
chromedriver. It takes a minute.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import cafe

IMAGES = Path(__file__).parents[1] / "docs/img"
SHOTS = {  # name -> width, theme, first element, last element
    "report-headline": (1100, "light", "header", "#run1-accuracy ~ figcaption"),
    "report-mistakes": (1100, "light", ".beside", ".losses"),
    "report-map": (1100, "dark", ".sides", ".legend[data-plots$='map-after']"),
    "report-phone": (390, "dark", "header", "#run1-accuracy ~ figcaption"),
}


def main() -> None:
    """Fit, write a page and take its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cache = cafe.Extractor("nano").extract("digits")
        methods = ["zero-shot", "nearest-class", "clip-adapter", "tip-adapter", "gda", "knn"]
        methods += ["taskres", "clap", "cross-modal", "lda-prior", "map-probe"]
        cafe.compare(cache, methods=methods, shots=[1, 2, 4, 8, 16], runs="runs")
        page = cafe.write_report(["runs"], "report.html", method="clip-adapter")
        browser = open_browser(Path(folder) / "browser")
        try:
            for name, shot in SHOTS.items():
                take(browser, page, IMAGES / f"{name}.png", *shot)
        finally:
            browser.quit()


def open_browser(profile: Path) -> Any:
    """A headless chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in ("headless=new", "no-sandbox", "hide-scrollbars", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def take(
    browser: Any, page: Path, target: Path, width: int, theme: str, first: str, last: str
) -> None:
    """One picture: what lies between two elements of the page."""
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.resolve().as_uri())
    for _ in range(120):
        if browser.execute_script("return document.documentElement.dataset.drawn"):
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
