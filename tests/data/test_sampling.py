"""Points of surfaces and of clouds: which are drawn, and from which seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from helpers.cloud_files import cells, numbered, put, save
from pyro_pcflow.data import half_extent, load_clouds


def test_mesh_points_are_uniform_by_area(tmp_path, mesh_format, corner):
    name, write = mesh_format
    clouds = load_clouds(put(tmp_path, name, write(*corner)), 20_000)
    assert clouds.shape == (1, 20_000, 3)
    assert clouds.dtype == torch.float32
    index = cells(clouds[0].double().numpy(), *corner)
    assert (index >= 0).all()
    observed = np.bincount(index, minlength=16)
    expected = np.repeat([1, 1.5, 3, 3.5], 4) / 36 * 20_000
    assert chisquare(observed, expected).pvalue > 1e-4


def test_cloud_points_are_a_subset(tmp_path, cloud_format):
    name, write = cloud_format
    points = numbered(50)
    path = put(tmp_path, name, write(points, None))
    whole = load_clouds(path, 50)
    assert torch.equal(whole, torch.tensor(points[None], dtype=torch.float32))
    assert torch.equal(load_clouds(path, None), whole)
    some = load_clouds(path, 20)[0]
    assert len({tuple(point) for point in some.tolist()}) == 20
    assert {tuple(point) for point in some.tolist()} <= {tuple(point) for point in whole[0].tolist()}


def test_points_repeat_after_all_were_taken(tmp_path):
    path = save(tmp_path, "few.npy", numbered(10))
    with pytest.warns(UserWarning, match=r"few\.npy: 10 points, 25 asked: points repeat") as record:
        cloud = load_clouds(path, 25)[0]
    assert len(record) == 1
    assert record[0].filename == __file__
    assert torch.equal(cloud[:10], torch.tensor(numbered(10), dtype=torch.float32))
    assert {tuple(point) for point in cloud.tolist()} == {tuple(point) for point in numbered(10).tolist()}


def test_seeds(tmp_path, any_format, corner):
    name, write = any_format
    path = put(tmp_path, name, write(np.tile(corner[0], (20, 1)) + numbered(80) / 99, corner[1]))
    assert torch.equal(load_clouds(path, 40, seed=3), load_clouds(path, 40, seed=3))
    assert not torch.equal(load_clouds(path, 40, seed=3), load_clouds(path, 40, seed=4))


def test_equal_clouds_get_their_own_draws(tmp_path):
    save(tmp_path, "a.npy", np.stack([numbered(100)] * 2))
    save(tmp_path, "b.npy", numbered(100))
    first, second, third = load_clouds(tmp_path, 10)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_vertices_do_not_count(tmp_path, corner, writers):
    vertices, faces = corner
    crowd = np.concatenate([vertices, np.full((1000, 3), 50.0)])
    points = load_clouds(put(tmp_path, "a.ply", writers["text.ply"](crowd, faces)), 1000)
    assert points.max() <= 3


def test_half_extent():
    assert half_extent(torch.tensor([[[-1.0, 0.0], [2.0, 0.5]], [[3.0, 0.0], [0.0, 0.0]]])) == 2.0
    with pytest.raises(ValueError, match="no points"):
        half_extent(torch.zeros(0, 3))
