"""The documentation, opened from a disk in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from helpers.browser import errors, requests, start

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    # Viewers are pages of their own, shown in frames.
    found = [page for page in sorted(site.rglob("*.html")) if page.name != "404.html" and not page.stem.isdigit()]
    assert len(found) > 15
    return found


@pytest.fixture(scope="module")
def chrome():
    driver = start(size=(1300, 900))
    yield driver
    driver.quit()


def wait(chrome, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(chrome, 60).until(lambda _: chrome.execute_script(f"return Boolean({condition})"))


def visit(chrome, page):
    chrome.get(page.as_uri())
    # On a busy machine the driver can come back while the page before is still there.
    wait(chrome, f'document.readyState == "complete" && location.href.startsWith("{page.as_uri()}")')


def viewers(chrome):
    """Enter each viewer of a page, one after the other."""
    for frame in chrome.find_elements("css selector", "iframe.pcflow-view"):
        chrome.execute_script("arguments[0].scrollIntoView()", frame)
        chrome.switch_to.frame(frame)
        yield frame
        chrome.switch_to.default_content()


PHONE = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}


@pytest.mark.exhaustive
def test_every_page_loads_with_its_formulas_and_fits_a_phone(chrome, pages, site):
    """One visit a page: no error, no request to the outside, formulas typeset, and no sideways scrolling."""
    errors(chrome), requests(chrome)
    formulas = 0
    for page in pages:
        visit(chrome, page)
        assert chrome.title
        broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert chrome.execute_script(broken) == [], page
        count = "return document.querySelectorAll(arguments[0]).length"
        assert chrome.execute_script(count, ".arithmatex:not(:has(.katex)), .katex-error") == 0, page
        formulas += chrome.execute_script(count, ".arithmatex")
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        try:
            assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390], (
                page
            )
        finally:
            chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert errors(chrome) == [], page
        assert {url for url in requests(chrome) if not url.startswith(site.as_uri())} == set(), page
    assert formulas > 50


def test_each_viewer_draws_and_its_slider_moves_points(chrome, pages):
    drawn = moved = 0
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    wanted = {page: text.count('<iframe class="pcflow-view') for page, text in texts.items()}
    for page in filter(wanted.get, pages):
        visit(chrome, page)
        for _ in viewers(chrome):
            wait(chrome, "window.pcflowViewer && pcflowViewer.state.draws")
            assert chrome.execute_script("return pcflowViewer.state.error") == "", page
            assert chrome.find_element("id", "view").get_attribute("aria-label"), page
            drawn += 1
            if chrome.execute_script("return pcflowViewer.frames") > 1:
                chrome.execute_script("pcflowViewer.pause()")
                before = chrome.execute_script("return pcflowViewer.show(0), pcflowViewer.state.draws")
                slider = chrome.find_element("id", "time")
                chrome.execute_script("arguments[0].value = 1; arguments[0].dispatchEvent(new Event('input'))", slider)
                wait(chrome, f"pcflowViewer.state.frame == 1 && pcflowViewer.state.draws > {before}")
                moved += 1
        assert errors(chrome) == [], page
    assert drawn == sum(wanted.values())
    assert moved > 2


class Anchors(HTMLParser):
    """The places of a page, and the links that it has."""

    def __init__(self, page):
        super().__init__()
        self.places, self.links = set(), []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


def test_links_within_the_site_lead_to_a_page_and_a_place_on_it(pages):
    anchors = {page: Anchors(page) for page in pages}
    inside = [(page, link) for page in pages for link in anchors[page].links if not urlsplit(link).scheme]
    assert len(inside) > 500
    for page, link in inside:
        path, place = urldefrag(link)
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.is_file(), (page, link)
        if place and target in anchors:
            assert unquote(place) in anchors[target].places, (page, link)


def test_search_finds_a_page(chrome, site):
    visit(chrome, site / "index.html")
    chrome.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    chrome.find_element("css selector", "input.md-search__input").send_keys("coupling")
    wait(chrome, "document.querySelector('.md-search-result__item a')")
    assert errors(chrome) == []


def test_a_viewer_takes_the_colours_of_its_page(chrome, pages):
    page = next(page for page in pages if '<iframe class="pcflow-view' in page.read_text(encoding="utf-8"))
    visit(chrome, page)
    grounds = []
    for _ in range(2):
        for _ in viewers(chrome):
            wait(chrome, "window.pcflowViewer")
            grounds.append(chrome.execute_script("return getComputedStyle(document.body).backgroundColor"))
            break
        chrome.switch_to.default_content()
        chrome.execute_script("document.querySelector('form[data-md-component=palette] label:not([hidden])').click()")
    assert sorted(grounds) == ["rgb(20, 23, 28)", "rgb(255, 255, 255)"]
