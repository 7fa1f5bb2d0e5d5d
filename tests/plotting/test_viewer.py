"""The page: what is packed in it, and that nothing gets out of it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from pyro_pcflow.plotting import save_html, view_clouds
from pyro_pcflow.plotting.camera import view_matrix
from pyro_pcflow.plotting.colors import INKS, ink, position_box, position_colors

HOSTILE = "</script><script>alert(1)</script></script <!-- <script & \" ' {{data}} \u2028"


class Page(HTMLParser):
    """The elements of a page and the text of its scripts and title."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.attributes = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, text):
        if self.tags:
            self.texts[self.tags[-1]] = [*self.texts.get(self.tags[-1], []), text]


def payload(page):
    text = page if isinstance(page, str) else page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def places(scene):
    packed = np.frombuffer(base64.b64decode(scene["data"]), dtype="<i2")
    return packed.reshape(scene["frames"], scene["points"], 3) * scene["step"] + np.array(scene["center"])


def test_points_come_back_within_half_a_step(tmp_path):
    film = torch.randn(9, 2048, 3, dtype=torch.float64, requires_grad=True) * torch.tensor([5.0, 1.0, 0.1]) + 40
    path = save_html(film, tmp_path / "deep" / "film.html")
    data = payload(path)
    (scene,) = data["scenes"]
    assert (scene["frames"], scene["points"]) == (9, 2048)
    reach = np.ptp(film.detach().numpy(), axis=(0, 1)).max() / 2
    assert scene["step"] == pytest.approx(reach / 32767)
    assert np.abs(places(scene) - film.detach().numpy()).max() <= scene["step"] / 2 * 1.001
    assert path.stat().st_size < 190_000
    assert data["fps"] == pytest.approx(2.0)


def test_several_clouds_of_every_kind(tmp_path):
    clouds = {
        "flat": np.random.default_rng(0).normal(size=(7, 2)),
        "deep": torch.randn(3, 5, 6),
        "one": torch.ones(1, 3),
    }
    scenes = payload(save_html(clouds, tmp_path / "a.html"))["scenes"]
    assert [(scene["name"], scene["frames"], scene["points"]) for scene in scenes] == [
        ("flat", 1, 7), ("deep", 3, 5), ("one", 1, 1)]  # fmt: skip
    np.testing.assert_allclose(places(scenes[0])[0, :, :2], clouds["flat"], atol=1e-3)
    assert (places(scenes[0])[..., 2] == 0).all()
    np.testing.assert_allclose(places(scenes[1]), clouds["deep"][..., :3].numpy(), atol=1e-3)
    np.testing.assert_array_equal(places(scenes[2]), np.ones((1, 1, 3)))
    listed = payload(save_html([torch.zeros(2, 3), torch.ones(2, 3)], tmp_path / "b.html", titles=["x", "y"]))
    assert [scene["name"] for scene in listed["scenes"]] == ["x", "y"]


def test_colors_and_legend(tmp_path):
    cloud = torch.randn(11, 3)
    path = save_html(cloud, tmp_path / "a.html", colors=torch.arange(11.0), cmap="gray", color_limits=(0, 5),
                     color_label="nats & co")  # fmt: skip
    tints = np.frombuffer(base64.b64decode(payload(path)["scenes"][0]["colors"]), dtype=np.uint8).reshape(11, 3)
    np.testing.assert_array_equal(tints[:, 0], np.round(np.clip(np.arange(11) / 5, 0, 1) * 255))
    text = path.read_text(encoding="utf-8")
    assert "nats &amp; co from 0 to 5" in text
    assert "≥ 5" in text
    assert "≤" not in text
    named = {"a": cloud, "b": cloud}
    one = payload(save_html(named, tmp_path / "b.html", colors={"b": "#0000ff", "a": np.ones((11, 3))}))["scenes"]
    assert base64.b64decode(one[0]["colors"]) == b"\xff" * 33
    assert base64.b64decode(one[1]["colors"]) == b"\0\0\xff" * 11


def test_nothing_is_fetched(tmp_path):
    text = save_html({"a": torch.randn(2, 9, 3)}, tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|XMLHttp|fetch\(|import\(", text)
    page = Page(text)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources == ["data:,"]
    assert "{{" not in text


def test_the_policy_of_the_page_forbids_everything_but_itself():
    page = Page(view_clouds(torch.randn(9, 3)).page)
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    found = dict(zip(page.attributes, page.attributes[1:], strict=False))
    assert found["http-equiv", "Content-Security-Policy"] == ("content", policy)


def test_a_notebook_gets_the_page_in_a_frame_that_may_run_scripts_and_nothing_else():
    view = view_clouds({HOSTILE: torch.randn(2, 9, 3)}, title=HOSTILE, height=333)
    frame = Page(view._repr_html_())
    assert frame.tags == ["iframe"]
    attributes = dict(frame.attributes)
    # Scripts of its own origin could reach the notebook: allow-same-origin must never stand here.
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == view.page
    assert "height: 333px" in attributes["style"]


def test_each_option_reaches_the_page():
    cloud = torch.randn(9, 3)
    data = payload(view_clouds(cloud, elev=-12.0, azim=77.0, up="-z", autoplay=False, point_size=2.5, fps=7).page)
    assert (data["elev"], data["azim"], data["autoplay"], data["pointSize"], data["fps"]) == (-12, 77, False, 2.5, 7)
    assert data["basis"] == view_matrix(0.0, 0.0, "-z").tolist() != np.eye(3).tolist()
    data = payload(view_clouds(cloud).page)
    assert (data["elev"], data["azim"], data["autoplay"], data["pointSize"]) == (18, 35, True, 1)
    # Flat clouds are seen from the front, whatever is asked for.
    flat = payload(view_clouds(cloud[:, :2], elev=-12.0, azim=77.0, up="-z").page)
    assert (flat["elev"], flat["azim"], flat["basis"]) == (0, 0, np.eye(3).tolist())
    named = payload(view_clouds({"a": cloud, "b": cloud}, titles=["x", "y"]).page)
    assert [scene["name"] for scene in named["scenes"]] == ["x", "y"]


def test_colors_that_nobody_gave():
    def tints(clouds):
        scenes = payload(view_clouds(clouds).page)["scenes"]
        return [np.frombuffer(base64.b64decode(scene["colors"]), np.uint8).reshape(-1, 3) for scene in scenes]

    clouds = torch.randn(3, 20, 3, generator=torch.Generator().manual_seed(0))
    for found, color in zip(tints(list(clouds)), INKS, strict=False):
        np.testing.assert_array_equal(found, np.round(255 * np.broadcast_to(ink(color), (20, 3))))
    # What moves has the colours of where it ends; one place has one colour in all films.
    films = torch.stack([clouds, clouds + 1])
    box = position_box(films[:, -1].reshape(-1, 3).numpy())
    for found, film in zip(tints({"a": films[0], "b": films[1]}), films, strict=True):
        np.testing.assert_array_equal(found, np.round(255 * position_colors(film[-1].double().numpy(), box)))
    two = tints(clouds[:2])[0]
    np.testing.assert_array_equal(two, np.round(255 * position_colors(clouds[1].double().numpy())))


def test_hostile_names_stay_text(tmp_path):
    path = save_html({HOSTILE: torch.randn(2, 9, 3)}, tmp_path / "a.html", title=HOSTILE)
    text = path.read_text(encoding="utf-8")
    clean = Page(save_html({"a": torch.randn(2, 9, 3)}, tmp_path / "b.html", title="b").read_text(encoding="utf-8"))
    page = Page(text)
    assert page.tags == clean.tags
    assert HOSTILE in page.texts["title"][0]
    assert HOSTILE in page.texts["h1"][0]
    assert payload(path)["scenes"][0]["name"] == HOSTILE
    # An end of the element may have a space in it, and a comment may hide one: no such letter is left.
    assert not re.search("[<>&]", re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    legend = save_html({"a": torch.randn(9, 3)}, tmp_path / "c.html", colors=[torch.arange(9.0)], color_label=HOSTILE)
    assert Page(legend.read_text(encoding="utf-8")).tags.count("script") == 2


def test_words_for_what_is_shown(tmp_path):
    cloud = np.array([[0.0, -2.5, 1.0], [4.0, 2.5, 1.0]])
    text = save_html({"cow": np.stack([cloud * 9, cloud])}, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "One point cloud, 2 points in all, moving through 2 frames." in text
    assert "<td>0 to 4</td><td>-2.5 to 2.5</td><td>1 to 1</td>" in text
    for part in ("<noscript>", "aria-label", 'lang="en"', "prefers-color-scheme", "WebGL"):
        assert part in text


@pytest.mark.parametrize(
    ("clouds", "options", "message"),
    [
        ([], {}, "empty"),
        ({}, {}, "empty"),
        (np.zeros(3), {}, "expected shape"),
        (np.zeros((2, 2, 2, 2)), {}, "expected shape"),
        (np.zeros((3, 1)), {}, "at least 2"),
        ({"a": np.full((2, 3), np.inf)}, {}, "2 of 2 points"),
        (np.zeros((4, 3)), {"colors": np.zeros(3)}, "colors: expected shape"),
        ({"a": np.zeros((4, 3))}, {"colors": {"b": "red"}}, "same names"),
        ([np.zeros((4, 3))], {"colors": ["red", "red"]}, "one entry for each of 1"),
        (np.zeros((4, 3)), {"fps": -1}, "fps"),
        (np.zeros((4, 3)), {"point_size": 0}, "point_size"),
        (np.zeros((4, 3)), {"titles": ["a", "b"]}, "titles"),
    ],
)
def test_errors(tmp_path, clouds, options, message):
    with pytest.raises(ValueError, match=message):
        save_html(clouds, tmp_path / "a.html", **options)
    assert not list(tmp_path.iterdir())


def test_wrong_types(tmp_path):
    for clouds in ("a.npy", 7, ["a"]):
        with pytest.raises(TypeError):
            save_html(clouds, tmp_path / "a.html")


def test_parts_have_one_ink_each_and_a_legend(tmp_path):
    points = torch.randn(6, 3)
    parts = torch.tensor([0, 2, 2, 0, 1, 7])
    path = save_html(points, tmp_path / "parts.html", colors=parts, color_label="leg")
    tints = np.frombuffer(base64.b64decode(payload(path)["scenes"][0]["colors"]), dtype=np.uint8).reshape(-1, 3)
    same = (tints[:, None] == tints[None]).all(-1)
    np.testing.assert_array_equal(same, (parts[:, None] == parts[None]).numpy())
    assert 'aria-label="Colours: leg 0, 1, 2, 7"' in path.read_text(encoding="utf-8")
    # The same numbers as scalars are a scale.
    scalars = save_html(points, tmp_path / "scalars.html", colors=parts.double(), color_label="leg")
    assert "linear-gradient" in scalars.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="from 0, got -1"):
        save_html(points, tmp_path / "no.html", colors=parts - 1)
