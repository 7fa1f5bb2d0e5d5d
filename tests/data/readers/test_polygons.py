"""Triangles of polygons: they cover the polygon, once."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers.mesh_files import ELL, area
from pyro_pcflow.data.readers.polygons import cut_strips, triangulate
from pyro_pcflow.data.shapes import Surface


def cut(*polygons):
    """Triangulate polygons of their own corners each."""
    vertices = np.concatenate(polygons)
    faces = triangulate(np.array([len(p) for p in polygons]), np.arange(len(vertices)), vertices)
    return Surface(vertices, faces)


def newell(points):
    return np.cross(points, np.roll(points, -1, axis=0)).sum(0) / 2


def covers(surface, *polygons):
    """No triangle is turned over, and together they have the area: then they cover the polygon once."""
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a) / 2
    owner = np.repeat(np.arange(len(polygons)), [len(p) - 2 for p in polygons])
    for number, points in enumerate(polygons):
        own, whole = normals[owner == number], newell(points)
        assert (own @ whole >= -1e-9 * (whole @ whole)).all()
        assert np.isclose(np.linalg.norm(own, axis=1).sum(), np.linalg.norm(whole))
    return True


def star(spikes, inner=0.4, start=0.0):
    angles = start + np.arange(2 * spikes) * np.pi / spikes
    radii = np.where(np.arange(2 * spikes) % 2, inner, 1)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles), 0 * angles], axis=1)


def spiral(turns, steps):
    angles = np.linspace(0, 2 * np.pi * turns, steps)
    outer, inner = 1 + angles, 0.6 + angles
    edge = np.stack([outer * np.cos(angles), outer * np.sin(angles)], axis=1)
    back = np.stack([inner * np.cos(angles), inner * np.sin(angles)], axis=1)[::-1]
    return np.pad(np.concatenate([edge, back]), ((0, 0), (0, 1)))


def comb(teeth):
    rows = [[0.0, 0, 0], [2.0 * teeth, 0, 0]]
    for tooth in reversed(range(teeth)):
        rows += [[2 * tooth + 1.5, 3, 0], [2 * tooth + 1, 0.5, 0]]
    return np.array([*rows, [0, 3, 0]])


CONCAVE = {
    "ell": ELL,
    "arrow": np.array([[0.0, 0, 0], [2, 1, 0], [0, 2, 0], [0.5, 1, 0]]),
    "pentagon": np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [1, 0.5, 0], [0, 2, 0]]),
    "star": star(5),
    "thin star": star(9, 0.05),
    "comb": comb(12),
    "spiral": spiral(3, 60),
    # A square with a square hole: two corners stand there twice, at the ends of the bridge.
    "hole": np.array([[0.0, 0], [3, 0], [3, 3], [0, 3], [0, 0], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]) @ np.eye(2, 3),
    "straight": np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0], [0, 1, 0]]),
}


@pytest.mark.parametrize("name", CONCAVE)
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_concave_polygons_are_covered_once(name, first, backwards):
    points = np.roll(CONCAVE[name][::-1] if backwards else CONCAVE[name], -first, axis=0)
    # Any plane of space, and far from 0.
    turn = np.linalg.qr(np.random.default_rng(first).normal(size=(3, 3)))[0]
    for polygon in (points, points @ turn, 1e-3 * points @ turn + 7, 1e4 * points @ turn - 1e5):
        assert covers(cut(polygon), polygon)


@pytest.mark.parametrize("corners", [3, 4, 5, 8, 100, 30_000])
def test_convex_polygons_are_fans(corners):
    angles = np.arange(corners) * 2 * np.pi / corners
    points = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    found = cut(points)
    assert found.faces.tolist() == [[0, i, i + 1] for i in range(1, corners - 1)]
    assert np.isclose(area(found), corners / 2 * np.sin(2 * np.pi / corners))


def test_polygons_stay_in_order_whatever_their_sizes():
    polygons = [ELL, ELL[:3], CONCAVE["arrow"], ELL[[0, 1, 4, 5]], star(6), ELL[:3], CONCAVE["pentagon"]]
    surface = cut(*polygons)
    assert covers(surface, *polygons)
    starts = np.cumsum([0, *map(len, polygons)])
    owners = np.searchsorted(starts, surface.faces, side="right") - 1
    assert (owners == owners[:, :1]).all()
    assert (np.diff(owners[:, 0]) >= 0).all()
    assert surface.faces.dtype == np.int64


def test_fewer_than_three_corners_are_no_triangle():
    faces = triangulate(np.array([0, 2, 3, 1]), np.array([0, 1, 0, 1, 2, 2]), np.eye(3))
    assert faces.tolist() == [[0, 1, 2]]
    assert triangulate(np.array([2]), np.array([0, 1]), np.eye(3)).shape == (0, 3)
    assert triangulate(np.array([], int), np.array([], int), np.eye(3)).shape == (0, 3)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((6, 3)),
        np.linspace(0, 1, 7)[:, None] * np.array([1.0, 2, 3]),
        np.array([[0.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]),
        np.random.default_rng(0).normal(size=(40, 3)),
        np.full((5, 3), np.nan),
        np.array([[0.0, 0, 0], [1, 0, 0], [np.inf, 1, 0], [0.2, 0.2, 0], [0, 1, 0]]),
        1e300 * ELL,
        1e-300 * ELL,
    ],
)
def test_polygons_without_a_plain_surface_come_to_an_end(points):
    surface = cut(points, ELL)
    assert surface.faces.shape == (len(points) - 2 + 4, 3)
    assert {*surface.faces[:-4].ravel().tolist()} <= {*range(len(points))}
    assert np.isclose(area(Surface(surface.vertices, surface.faces[-4:])), 3)


def test_a_corner_that_is_no_vertex():
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="a face refers to a vertex outside 0 to 2"):
            triangulate(np.array([3]), np.array([0, 1, wrong]), np.eye(3))


def test_too_many_large_concave_polygons_are_refused():
    for polygons, most in (([star(10_000)], 20_000), ([star(500 + number) for number in range(400)], 1798)):
        start = time.process_time()
        with pytest.raises(ValueError, match=f"{len(polygons)} concave faces of as many as {most} corners, export tri"):
            cut(*polygons)
        assert time.process_time() - start < 2


def test_polygons_of_any_number_of_corners_are_refused():
    with pytest.raises(ValueError, match="a face of 100001 corners, export triangles"):
        triangulate(np.array([3, 100_001]), np.zeros(100_004, int), np.eye(3))


def test_concave_polygons_of_many_sizes_are_cut_together():
    polygons = [star(spikes) for spikes in range(3, 60)]
    # A corner that stands there twice makes a triangle without area, which stays.
    polygons.append(np.repeat(star(7), 2, axis=0))
    assert covers(cut(*polygons), *polygons)


def test_many_concave_polygons_are_cut_at_once():
    start = time.process_time()
    polygon = CONCAVE["pentagon"]
    count = 20_000
    faces = triangulate(np.full(count, 5), np.arange(5 * count), np.tile(polygon, (count, 1)))
    assert time.process_time() - start < 5
    assert (faces.reshape(count, 3, 3) - 5 * np.arange(count)[:, None, None] == faces[:3]).all()


def test_strips():
    assert cut_strips(np.array([3, 1, 4, 0, 5])).tolist() == [[3, 1, 4], [4, 1, 0], [4, 0, 5]]
    assert cut_strips(np.array([-1, 0, 1, 2, -1, -1, 3, 4, -1, 2, 3, 4, 5, -1])).tolist() == [
        [0, 1, 2],
        [2, 3, 4],
        [4, 3, 5],
    ]
    assert cut_strips(np.array([0, 1])).shape == (0, 3)
