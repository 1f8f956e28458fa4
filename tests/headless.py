"""A headless browser for tests of pages; skips where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cafe.errors import how_to_install

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def headless_browser(profile: Path, width: int) -> Iterator[Any]:
    """A browser with a window of so many pixels, which logs errors and requests."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium with its chromedriver; apt-get install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason=how_to_install("browser"))
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--window-size={width},900", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get_log("performance")  # the browser's own first page
        yield driver
    finally:
        driver.quit()
