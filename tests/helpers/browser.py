"""A real browser without a window, for pages that a person will open."""

from __future__ import annotations

import json
import shutil

import pytest

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def start(*flags, size=(800, 640)):
    """A driver of Chromium, or a skip that says what is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and its chromedriver are not installed: `make browser` installs them on Debian")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def errors(chrome):
    """Console messages since the last call, but for the driver's remark on being photographed."""
    return [entry for entry in chrome.get_log("browser") if "ReadPixels" not in entry["message"]]


def requests(chrome):
    """What was asked for since the last call."""
    sent = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    urls = {entry["params"]["request"]["url"] for entry in sent if entry["method"] == "Network.requestWillBeSent"}
    return {url for url in urls if not url.startswith(("data:", "blob:"))}
