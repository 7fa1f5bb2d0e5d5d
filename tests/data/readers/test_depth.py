"""Depth images: points by the pinhole's formula."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pyro_pcflow.data.readers.depth import depth_to_points

CAMERA = {"fx": 2.0, "fy": 4.0, "cx": 1.0, "cy": 0.5}


def expected(depth, fx, fy, cx, cy, scale=1.0):
    points = []
    for row, line in enumerate(depth):
        for column, value in enumerate(line):
            if value and np.isfinite(value):
                z = float(value) * scale
                points.append([(column - cx) * z / fx, (row - cy) * z / fy, z])
    return points


DEPTH = [[1000, 0, 3000], [0, 1500, 4000]]


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "u4", "f4", "f8", "f2", ">f4"])
def test_formula(dtype):
    points = depth_to_points(np.array(DEPTH, dtype), **CAMERA, scale=1e-3)
    assert points.dtype == (np.float32 if dtype.lstrip(">") in ("f4", "f2") else np.float64)
    np.testing.assert_allclose(points, expected(DEPTH, **CAMERA, scale=1e-3), rtol=1e-6)


def test_lists_and_an_axis_of_one():
    np.testing.assert_allclose(depth_to_points(DEPTH, **CAMERA), expected(DEPTH, **CAMERA))
    np.testing.assert_allclose(depth_to_points(np.array(DEPTH)[..., None], **CAMERA), expected(DEPTH, **CAMERA))


def test_no_measurement():
    depth = np.array([[np.nan, np.inf, 0.0], [2.0, -0.0, np.nan]])
    assert depth_to_points(depth, **CAMERA).tolist() == [[-1.0, 0.25, 2.0]]
    masked = np.ma.masked_array(np.array([[5.0, 2.0]]), [[True, False]])
    assert depth_to_points(masked, 1, 1, 0, 0).tolist() == [[2, 0, 2]]


def test_farthest():
    assert depth_to_points(DEPTH, **CAMERA, scale=1e-3, max_depth=1.5)[:, 2].tolist() == [1.0, 1.5]


def test_pose():
    # A quarter turn about z, and a shift.
    pose = [[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]]
    here, there = (depth_to_points(DEPTH, **CAMERA, pose=at) for at in (None, pose))
    np.testing.assert_allclose(there, np.stack([10 - here[:, 1], 20 + here[:, 0], 30 + here[:, 2]], axis=1))


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("as_text", [False, True])
def test_pictures_of_16_bits(tmp_path, ending, as_text):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.array(DEPTH, np.uint16)).save(path)
    points = depth_to_points(str(path) if as_text else path, **CAMERA, scale=1e-3)
    np.testing.assert_allclose(points, expected(DEPTH, **CAMERA, scale=1e-3))


def test_pictures_of_floats(tmp_path):
    Image.fromarray(np.array(DEPTH, np.float32)).save(tmp_path / "a.tiff")
    points = depth_to_points(tmp_path / "a.tiff", **CAMERA)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, expected(DEPTH, **CAMERA))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"depth": [[-1, 2]]}, "1 pixels have a negative depth"),
        ({"depth": [[0, 0]]}, "no pixel holds a depth"),
        ({"max_depth": 0.5}, "no pixel holds a depth of at most 0.5"),
        ({"depth": [1, 2]}, r"\(H, W\), got \(2,\)"),
        ({"depth": np.zeros((2, 2, 3))}, r"\(H, W\), got \(2, 2, 3\)"),
        ({"depth": np.zeros((0, 2))}, r"\(H, W\), got \(0, 2\)"),
        ({"depth": np.ones((2, 2), complex)}, "a depth image of complex128"),
        ({"depth": np.ones((2, 2), bool)}, "a depth image of bool"),
        ({"fx": 0}, "fx must be positive and finite, got 0"),
        ({"fy": float("nan")}, "fy must be positive"),
        ({"scale": -1}, "scale must be positive"),
        ({"max_depth": 0}, "max_depth must be positive"),
        ({"cx": float("inf")}, "cx and cy must be finite"),
        ({"pose": np.eye(3)}, r"\(4, 4\) matrix, got \(3, 3\)"),
        ({"pose": np.full((4, 4), np.nan)}, "finite"),
        ({"pose": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 0, 0, 1]])}, "last row of pose"),
    ],
)
def test_refused(changes, found):
    with pytest.raises(ValueError, match=found):
        depth_to_points(**{"depth": DEPTH, **CAMERA, **changes})


def test_refused_pictures(tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "words.png").write_bytes(b"hello")
    Image.fromarray(np.array(DEPTH, np.uint16)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:50])
    for name, found in {
        "rgb.png": "mode RGB",
        "grey.png": "mode L",
        "words.png": "can't be read",
        "cut.png": "can't be read",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: can't be read .*{found if 'mode' in found else ''}"):
            depth_to_points(tmp_path / name, **CAMERA)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        depth_to_points(tmp_path / "gone.png", **CAMERA)


def test_damaged_pictures(tmp_path):
    generator = np.random.default_rng(0)
    Image.fromarray(np.array(DEPTH, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.array(DEPTH, np.uint16)).save(tmp_path / "a.tiff")
    read = 0
    for name in ("a.png", "a.tiff") * 100:
        data = bytearray((tmp_path / name).read_bytes())
        data[generator.integers(len(data))] = generator.integers(256)
        (tmp_path / f"b{name}").write_bytes(data[: generator.choice([len(data), generator.integers(len(data))])])
        try:
            read += depth_to_points(tmp_path / f"b{name}", **CAMERA).shape[1] == 3
        except ValueError:
            continue
    assert read
