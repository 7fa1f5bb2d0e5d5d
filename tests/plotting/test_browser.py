"""The page in a real browser."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.browser import errors, requests, start
from pyro_pcflow.plotting import project, save_html

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chrome():
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    share = torch.linspace(0, 1, 5)[:, None, None]
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    film = (1 - share) * noise + share * noise / noise.norm(dim=-1, keepdim=True)
    path = tmp_path_factory.mktemp("viewer") / "film.html"
    return save_html({"film": film, "rest": noise[:77]}, path, title="A </script> film", autoplay=False)


def state(chrome):
    return json.loads(chrome.execute_script("return JSON.stringify(pcflowViewer.state)"))


def look(chrome):
    """The canvas, once nothing is left to draw."""
    chrome.execute_async_script("const done = arguments[0]; setTimeout(() => requestAnimationFrame(done), 60)")
    shot = Image.open(io.BytesIO(chrome.find_element("id", "view").screenshot_as_png))
    return np.asarray(shot.convert("RGB")).astype(int)


def test_it_loads_draws_and_asks_for_nothing(chrome, page):
    requests(chrome)
    chrome.get(page.as_uri())
    image = look(chrome)
    assert (image.min(-1) < 200).mean() > 0.01
    assert state(chrome)["error"] == ""
    assert chrome.execute_script("return pcflowViewer.points") == [500, 77]
    assert errors(chrome) == []
    assert requests(chrome) == {page.as_uri()}
    assert chrome.title == "A </script> film"
    assert [label.text for label in chrome.find_elements("class name", "name")] == ["film", "rest"]


def test_slider_moves_points(chrome, page):
    from selenium.webdriver.common.keys import Keys

    chrome.get(page.as_uri())
    before = look(chrome)
    slider = chrome.find_element("id", "time")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert state(chrome)["frame"] == 1
    assert slider.get_attribute("aria-valuetext") == "frame 2 of 5"
    after = look(chrome)
    half = before.shape[1] // 2
    assert np.abs(after - before)[:, :half].mean() > 1
    assert np.abs(after - before)[:, half + 20 :].max() == 0
    chrome.execute_script("arguments[0].value = 2.5; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert state(chrome)["frame"] == 2.5
    assert np.abs(look(chrome) - after)[:, :half].mean() > 1


def centroids(image, size):
    """For red, green and blue, the mean place of its pixels from the middle of the canvas, upwards."""
    found = []
    for channel in range(3):
        others = [k for k in range(3) if k != channel]
        rows, columns = np.nonzero(image[..., channel] - image[..., others].max(-1) > 60)
        found.append([columns.mean() - size[1] / 2, size[0] / 2 - rows.mean()])
    return np.array(found)


@pytest.mark.parametrize(("elev", "azim", "up"), [(18.0, 35.0, "y"), (40.0, -70.0, "z"), (-10.0, 120.0, "-x")])
def test_the_page_shows_what_pictures_show(chrome, tmp_path, elev, azim, up):
    places, inks = np.eye(3), np.eye(3) * 0.9
    points = np.concatenate([places, -places])
    colors = np.concatenate([inks, np.full((3, 3), 0.5)])
    view = {"elev": elev, "azim": azim, "up": up}
    chrome.get(save_html(points, tmp_path / "axes.html", colors=colors, point_size=0.5, **view).as_uri())
    image = look(chrome)
    seen = project(places, **view)
    # The page has a little perspective: what is near is larger.
    expected = seen[:, :2] / (1 - 0.2 * seen[:, 2:])
    found = centroids(image, image.shape[:2])
    scale = (found * expected).sum() / (expected**2).sum()
    assert scale > 50
    np.testing.assert_allclose(found / scale, expected, atol=0.05)


def test_points_move_on_straight_lines_between_frames(chrome, tmp_path):
    rest = np.repeat(np.array([[[-1.0, -1, 0], [1, 1, 0]]]), 2, 0)
    film = np.concatenate([np.array([[[-1.0, 1, 0]], [[1, -1, 0]]]), rest], 1)
    colors = np.array([[0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.9]])
    page = save_html(film, tmp_path / "film.html", colors=colors, elev=0, azim=0, autoplay=False)
    chrome.get(page.as_uri())
    places = []
    for frame in (0, 0.5, 1):
        chrome.execute_script("pcflowViewer.show(arguments[0])", frame)
        image = look(chrome)
        places.append(centroids(image, image.shape[:2])[0])
    assert places[0][0] < -50
    assert places[2][0] > 50
    np.testing.assert_allclose(places[1], 0, atol=5)


def test_the_camera_does_not_go_over_the_pole(chrome, page):
    from selenium.webdriver.common.keys import Keys

    chrome.get(page.as_uri())
    canvas = chrome.find_element("id", "view")
    canvas.send_keys(Keys.ARROW_UP * 20)
    assert state(chrome)["elev"] == 89.9
    canvas.send_keys(Keys.ARROW_DOWN * 40)
    assert state(chrome)["elev"] == -89.9


def test_keys_mouse_and_reset(chrome, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    chrome.get(page.as_uri())
    first = look(chrome)
    canvas = chrome.find_element("id", "view")
    canvas.send_keys(Keys.ARROW_RIGHT)
    canvas.send_keys(Keys.ARROW_UP)
    canvas.send_keys("+")
    now = state(chrome)
    assert (now["azim"], now["elev"]) == (40, 23)
    assert now["zoom"] == pytest.approx(1.15)
    assert np.abs(look(chrome) - first).mean() > 1
    ActionChains(chrome).drag_and_drop_by_offset(canvas, 50, 20).perform()
    assert state(chrome)["azim"] == pytest.approx(20)
    assert state(chrome)["elev"] == pytest.approx(31)
    chrome.execute_script("arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100}))", canvas)
    assert state(chrome)["zoom"] > 1.3
    chrome.find_element("id", "reset").click()
    np.testing.assert_array_equal(look(chrome), first)


@pytest.mark.parametrize("height", [300, 900])
def test_no_point_lies_under_a_name(chrome, page, height):
    size = chrome.get_window_size()
    chrome.set_window_size(1000, height)
    try:
        chrome.get(page.as_uri())
        strip = chrome.execute_script(
            "const labels = [...document.querySelectorAll('.name')];"
            "labels.forEach((label) => { label.style.color = 'transparent'; });"
            "return labels[0].offsetHeight"
        )
        image = look(chrome)
        ground = image[0, 0]
        assert strip > 15
        assert (image[:strip] == ground).all()
        assert (image[strip:] != ground).any()
    finally:
        chrome.set_window_size(size["width"], size["height"])


def test_play_runs_to_the_end_and_starts_again(chrome, page):
    chrome.get(page.as_uri())
    canvas = chrome.find_element("id", "view")
    canvas.send_keys(" ")
    assert state(chrome)["playing"]
    assert chrome.find_element("id", "play").text == "Pause"
    time.sleep(1.5)
    chrome.find_element("id", "play").click()
    now = state(chrome)
    assert not now["playing"]
    assert 0 < now["frame"] < 4
    chrome.execute_script("pcflowViewer.show(4)")
    canvas.send_keys(" ")
    assert state(chrome)["frame"] < 4


def test_dark_and_light(chrome, page):
    grounds = []
    for theme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": theme}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        if theme == "light":
            chrome.get(page.as_uri())
        grounds.append(look(chrome)[-3, 3].mean())
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert grounds[0] > 240
    assert grounds[1] < 40


def test_without_webgl_it_says_so(page):
    chrome = start("--disable-3d-apis")
    try:
        chrome.get(page.as_uri())
        assert "needs WebGL" in chrome.find_element("id", "message").text
        assert "500" in chrome.find_element("tag name", "table").text
    finally:
        chrome.quit()
