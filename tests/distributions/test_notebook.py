"""A cloud and a flow show themselves in a notebook."""

from __future__ import annotations

import base64
import html
import json
import re

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.plotting import View


def scenes(shown):
    """What the frame of a notebook would draw."""
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["scenes"]


def places(scene):
    packed = np.frombuffer(base64.b64decode(scene["data"]), dtype="<i2")
    return packed.reshape(scene["frames"], scene["points"], 3) * scene["step"] + np.array(scene["center"])


def two_normals(point_dim=3, count=2):
    middle = 10.0 * torch.arange(count, dtype=torch.float32)[:, None].expand(count, point_dim)
    return dist.Normal(middle, 0.1).to_event(1)


def test_each_cloud_of_a_batch_is_drawn_from_its_own_density():
    shown = scenes(pcf.PointCloud(two_normals(), num_points=300)._repr_html_())
    assert [scene["name"] for scene in shown] == ["cloud 1", "cloud 2"]
    for scene, middle in zip(shown, (0, 10), strict=True):
        assert scene["points"] == 300
        assert np.abs(places(scene).mean((0, 1)) - middle).max() < 0.05


def test_each_cloud_has_the_colours_of_its_own_density(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        pcf.plotting, "view_clouds", lambda clouds, **options: seen.update(clouds=clouds, **options) or View("")
    )
    normals = two_normals()
    pcf.PointCloud(normals, mask=torch.arange(50) < torch.tensor([[20], [50]]))._repr_html_()
    for index, (cloud, color) in enumerate(zip(seen["clouds"].values(), seen["colors"].values(), strict=True)):
        torch.testing.assert_close(color, normals.log_prob(cloud[:, None])[:, index])


def test_what_a_distribution_is_called_is_text():
    class Named(pcf.PointCloud):
        def __repr__(self):
            return "<b>bold</b>"

    assert Named(two_normals(), num_points=5)._repr_html_().startswith("<p><code>&lt;b&gt;bold&lt;/b&gt;</code>")


def test_padding_is_not_drawn():
    mask = torch.arange(50) < torch.tensor([[20], [50]])
    assert [scene["points"] for scene in scenes(pcf.PointCloud(two_normals(), mask=mask)._repr_html_())] == [20, 50]


def test_an_empty_cloud_is_left_out():
    mask = torch.arange(5) < torch.tensor([[0], [5]])
    assert [scene["name"] for scene in scenes(pcf.PointCloud(two_normals(), mask=mask)._repr_html_())] == ["cloud 2"]


def test_many_clouds_and_many_points_are_drawn_in_part_and_it_says_so():
    text = pcf.PointCloud(two_normals(count=7), num_points=100_000)._repr_html_()
    assert "4 of 7 clouds" in text
    assert [scene["points"] for scene in scenes(text)] == [2048] * 4


def test_colours_are_log_densities():
    scene = scenes(pcf.PointCloud(two_normals(count=1), num_points=500)._repr_html_())[0]
    distance = np.linalg.norm(places(scene)[0], axis=-1)
    # Of viridis, yellow is high and blue is low: red grows with the density.
    red = np.frombuffer(base64.b64decode(scene["colors"]), dtype=np.uint8).reshape(-1, 3)[:, 0]
    order = distance.argsort()
    assert red[order[:50]].mean() > red[order[-50:]].mean() + 50


@pytest.mark.parametrize("point_dim", [2, 3, 6])
@pytest.mark.parametrize("context_dim", [0, 4])
def test_a_flow_shows_its_layers_and_noise_on_its_way(point_dim, context_dim):
    flow = pcf.PointCloudFlow(point_dim, context_dim, num_couplings=4, hidden_dims=[8])
    text = flow._repr_html_()
    assert html.escape(repr(flow)) in text
    (scene,) = scenes(text)
    assert scene["frames"] == 1 + 4  # the noise, and each coupling
    assert ("context of zeros" in scene["name"]) == (context_dim > 0)


def test_looking_changes_nothing():
    flow = pcf.PointCloudFlow(num_couplings=2, hidden_dims=[8])
    state = torch.get_rng_state()
    flow._repr_html_()
    flow.cloud(num_points=10)._repr_html_()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("cloud", "why"),
    [
        (pcf.PointCloud(two_normals(), num_points=0), "no points"),
        (pcf.PointCloud(two_normals(point_dim=1), num_points=5), "one coordinate"),
        (pcf.PointCloud(two_normals(), mask=torch.zeros(2, 5, dtype=torch.bool)), "no points"),
        (pcf.PointCloud(dist.Normal(torch.zeros(3), torch.inf).to_event(1), 5), "not finite"),
    ],
    ids=["empty", "one coordinate", "masked", "infinite"],
)
def test_what_cannot_be_drawn_says_why(cloud, why):
    text = cloud._repr_html_()
    assert "PointCloud(" in text
    assert why in text
    assert "iframe" not in text


def test_a_view_is_the_page_in_a_frame(tmp_path):
    cloud = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    view = pcf.plotting.view_clouds(cloud, title="A & B", height=300)
    page = view.save(tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    framed = re.search(r'srcdoc="([^"]*)"', view._repr_html_())[1]
    assert html.unescape(framed) == page
    assert pcf.plotting.save_html(cloud, tmp_path / "b.html", title="A & B").read_text(encoding="utf-8") == page
    assert "height: 300px" in view._repr_html_()
    with pytest.raises(ValueError, match="height"):
        pcf.plotting.view_clouds(cloud, height=0)
