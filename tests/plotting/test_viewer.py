"""The page: what is packed in it, and that nothing gets out of it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from pyro_pcflow.plotting import save_html

HOSTILE = "</script><script>alert(1)</script><!-- & \" ' {{data}} \u2028"


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


def payload(path):
    text = path.read_text(encoding="utf-8")
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


def test_hostile_names_stay_text(tmp_path):
    path = save_html({HOSTILE: torch.randn(2, 9, 3)}, tmp_path / "a.html", title=HOSTILE)
    text = path.read_text(encoding="utf-8")
    clean = Page(save_html({"a": torch.randn(2, 9, 3)}, tmp_path / "b.html", title="b").read_text(encoding="utf-8"))
    page = Page(text)
    assert page.tags == clean.tags
    assert HOSTILE in page.texts["title"][0]
    assert HOSTILE in page.texts["h1"][0]
    assert payload(path)["scenes"][0]["name"] == HOSTILE
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
