"""Arrays of numpy: plain, with fields, and several in a file."""

from __future__ import annotations

import io
import random
import tokenize
import zipfile
import zlib

import numpy as np
import pytest

from helpers.text_files import damaged
from pyro_pcflow.data.columns import choose_columns
from pyro_pcflow.data.readers.arrays import as_stack, as_table, read_npy, read_npz, read_splits
from pyro_pcflow.data.shapes import CloudArray

NUMBERS = np.arange(1.0, 61.0)


def npy(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    return read_npy(tmp_path / "a.npy")


def npz(tmp_path, split=None, folder_split=None, array=None, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    return read_npz(tmp_path / "a.npz", split, folder_split, array)


TYPES = ["f2", "f4", "f8", ">f4", ">f8", "i1", "u1", ">i2", "u2", "i4", ">u4", "i8", "u8", "g"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(20, 3), (30, 2), (4, 5, 3), (1, 20, 3), (10, 6)])
def test_plain_arrays(tmp_path, dtype, shape):
    points = NUMBERS.reshape(shape).astype(dtype)
    stack = npy(tmp_path, points)
    assert isinstance(stack, CloudArray)
    assert stack.points.dtype == points.dtype
    np.testing.assert_array_equal(stack.points, points.reshape(-1, *shape[-2:]))


def test_fortran_order(tmp_path):
    points = np.asfortranarray(NUMBERS.reshape(20, 3))
    np.testing.assert_array_equal(npy(tmp_path, points).points[0], points)


def test_read_only_maps(tmp_path):
    stack = npy(tmp_path, NUMBERS.reshape(20, 3))
    with pytest.raises(ValueError, match="read-only"):
        stack.points[0, 0, 0] = 5


@pytest.mark.parametrize("dtype", ["f4", "i4"])
def test_masked_values(dtype):
    masked = np.ma.masked_array(np.arange(6).reshape(3, 2).astype(dtype), [[0, 0], [1, 0], [0, 0]])
    points = as_stack(masked).points
    assert type(points) is np.ndarray
    assert points.dtype == (np.float32 if dtype == "f4" else np.float64)
    np.testing.assert_array_equal(points, [[[0, 1], [np.nan, 3], [4, 5]]])
    assert as_stack(np.ma.masked_array(np.arange(6).reshape(3, 2))).points.dtype.kind == "i"


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((240, 320), np.uint16), r"\(240, 320\), points of 320 coordinates: if .*depth_to_points"),
        (np.zeros((2, 24, 32)), r"depth_to_points"),
        (np.zeros((5, 17)), "17 coordinates"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.zeros((9, 1)), r"shape \(9, 1\)"),
        (np.zeros((2, 2, 2, 3)), r"shape \(2, 2, 2, 3\): reshape it"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((9, 3), bool), "an array of bool instead of real numbers"),
        (np.zeros((9, 3), complex), "an array of complex128"),
        (np.full((9, 3), "x"), "an array of <U1"),
        (np.zeros((9, 3), "M8[s]"), "an array of datetime64"),
        (np.zeros((), [("x", "f4")]), None),
        (np.zeros((0,), [("x", "f4")]), r"shape \(0,\): no points"),
        (np.zeros(2, [("x", "f4"), ("y", "c8")]), "field 'y' is of complex64"),
        (np.zeros(2, [("x", "f4", (5000,))]), "more than 4096 columns"),
        (np.zeros(3, "V5"), "instead of real numbers"),
        (np.zeros((3, 2), "U0"), "instead of real numbers"),
    ],
)
def test_refused(tmp_path, array, found):
    if found is None:
        assert len(npy(tmp_path, array)[0]) == 1
        return
    with pytest.raises(ValueError, match=found):
        npy(tmp_path, array)


# Named fields.


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "u2"])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_fields(tmp_path, order, kind, shape):
    points = np.zeros(shape, [(name, order + kind) for name in ("x", "y", "z", "intensity")])
    for place, name in enumerate(points.dtype.names):
        points[name] = np.arange(6).reshape(shape) + 10 * place
    (table,) = npy(tmp_path, points)
    assert table.named
    assert list(table.columns) == ["x", "y", "z", "intensity"]
    chosen = choose_columns(table, features="i")
    assert chosen.points.dtype == (np.float32 if kind == "f4" else np.float64)
    assert chosen.points.T.tolist() == [list(range(start, start + 6)) for start in (0, 10, 20)]
    assert chosen.features.ravel().tolist() == list(range(30, 36))


def test_padding_between_fields(tmp_path):
    dtype = np.dtype({"names": ["x", "y"], "formats": ["f4", "f8"], "offsets": [4, 16], "itemsize": 32})
    points = np.zeros(3, dtype)
    points["x"], points["y"] = [1, 2, 3], [4, 5, 6]
    assert choose_columns(as_table(points)).points.tolist() == [[1, 4], [2, 5], [3, 6]]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        (("xyz", "f4", (3,)), "x y z"),
        (("Position", "f4", (2,)), "x y"),
        (("rgb", "u1", (3,)), "r g b"),
        (("color", "u1", (4,)), "r g b a"),
        (("normals", "f4", (3,)), "nx ny nz"),
        (("feature", "f4", (2,)), "feature:0 feature:1"),
        (("m", "f4", (2, 2)), "m:0 m:1 m:2 m:3"),
        (("p", [("x", "f4"), ("y", "f4")]), "x y"),
        (("xyz", "f4", (1,)), "xyz:0"),
    ],
)
def test_fields_of_several_values(tmp_path, field, names):
    points = np.zeros(2, [field, ("x", "f4")] if "x" not in names else [field])
    count = len(names.split())
    flat = points[field[0]]
    if flat.dtype.names is None:
        flat[:] = np.arange(2 * count).reshape(flat.shape)
        (table,) = npy(tmp_path, points)
        values = [table.columns[name].tolist() for name in names.split()]
        assert values == [[k, k + count] for k in range(count)]
    (table,) = npy(tmp_path, points)
    assert list(table.columns)[:count] == names.split()


def test_fields_of_words_and_flags(tmp_path):
    points = np.array(
        [(1, 2, "chair", b"B\xe4ume", True)], [("x", "f4"), ("y", "f4"), ("w", "U9"), ("s", "S9"), ("f", "?")]
    )
    (table,) = npy(tmp_path, points)
    assert table.columns["w"].tolist() == ["chair"]
    assert table.columns["s"].tolist() == ["B\u00e4ume"]
    assert choose_columns(table, features="f").features.tolist() == [[1]]


def test_masked_fields():
    points = np.ma.zeros(2, [("x", "i4"), ("y", "f4")])
    points.mask = [(True, False), (False, False)]
    table = as_table(points)
    np.testing.assert_array_equal(table.columns["x"], [np.nan, 0])


# Several arrays in a file.


def test_points_with_splits_and_labels(tmp_path):
    points = NUMBERS.reshape(4, 5, 3)
    split, labels = np.array(["train", "test", "train", "val"]), np.array([3, 1, 4, 1])
    np.savez(tmp_path / "a.npz", points=points, split=split, labels=labels)
    found = read_npz(tmp_path / "a.npz", None, None)
    assert found.splits.tolist() == split.tolist()
    assert found.labels.tolist() == [3, 1, 4, 1]
    found = npz(tmp_path, split="x", folder_split="x", points=points, labels=np.array([b"a", b"b", b"c", b"d"]))
    assert found.splits is None
    assert found.labels.tolist() == ["a", "b", "c", "d"]
    np.savez(tmp_path / "a.npz", points=points, split=split, labels=labels)
    found = read_npz(tmp_path / "a.npz", "train", None)
    assert found.points[:, 0, 0].tolist() == [1, 31]
    assert found.labels.tolist() == [3, 4]
    assert read_splits(tmp_path / "a.npz").tolist() == split.tolist()
    with pytest.raises(ValueError, match="no cloud with split 'valid', only test, train, val"):
        read_npz(tmp_path / "a.npz", "valid", None)


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros((4, 5), int), np.zeros(4), np.zeros(4, complex)])
def test_labels_of_something_else(tmp_path, labels):
    assert npz(tmp_path, points=NUMBERS.reshape(4, 5, 3), labels=labels).labels is None


def test_split_of_what_has_none(tmp_path):
    np.savez(tmp_path / "a.npz", points=NUMBERS.reshape(4, 5, 3))
    with pytest.raises(ValueError, match="no array `split`, only points"):
        read_npz(tmp_path / "a.npz", "train", None)
    assert read_splits(tmp_path / "a.npz") is None
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(ValueError, match="no array `split`, only x, y"):
        read_npz(tmp_path / "a.npz", "train", None)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"normals": np.zeros((20, 3))},
        {"colors": np.zeros((20, 3), np.uint8), "point_normals": np.zeros((20, 3))},
        {"faces": np.zeros((7, 3), int), "pose": np.eye(4), "K": np.eye(3)},
        {"meta": np.array("a word"), "flat": np.zeros(60), "label": np.zeros(20, int)},
        {"image": np.zeros((240, 320)), "flags": np.zeros((20, 3), bool)},
    ],
)
@pytest.mark.parametrize("name", ["xyz", "arr_0", "vertices"])
def test_the_only_array_of_points(tmp_path, name, others):
    found = npz(tmp_path, **{name: NUMBERS.reshape(20, 3)}, **others)
    np.testing.assert_array_equal(found.points[0], NUMBERS.reshape(20, 3))


def test_arrays_of_coordinates(tmp_path):
    columns = {"X": np.arange(4.0), "Y": np.arange(4, 8), "Z": np.zeros(4, np.float32), "name": np.array(list("abcd"))}
    (table,) = npz(tmp_path, **columns, other=np.zeros(7), more=np.zeros((4, 3)))
    assert list(table.columns) == ["X", "Y", "Z", "name"]
    assert choose_columns(table).points.T.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0] * 4]


def test_several_clouds(tmp_path):
    tables = npz(
        tmp_path, left=NUMBERS[:30].reshape(10, 3), right=NUMBERS[:15].reshape(5, 3), left_normals=np.ones((10, 3))
    )
    assert [(table.name, len(table)) for table in tables] == [("left", 10), ("right", 5)]
    assert choose_columns(tables[1]).points.tolist() == NUMBERS[:15].reshape(5, 3).tolist()


def test_array_by_name(tmp_path):
    arrays = {"one": NUMBERS.reshape(4, 5, 3), "two": NUMBERS.reshape(20, 3), "points": np.ones((3, 3))}
    assert npz(tmp_path, array="one", **arrays).points.shape == (4, 5, 3)
    assert npz(tmp_path, array="two", **arrays).points.shape == (1, 20, 3)
    assert npz(tmp_path, **arrays).points.shape == (1, 3, 3)
    with pytest.raises(ValueError, match="no array `three`, only one, points, two"):
        npz(tmp_path, array="three", **arrays)


def test_fields_in_npz(tmp_path):
    points = np.zeros(3, [("x", "f4"), ("y", "f4")])
    (table,) = npz(tmp_path, scan=points)
    assert list(table.columns) == ["x", "y"]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"faces": np.zeros((4, 3))}, "no array `points`, only faces"),
        ({}, "no array `points`, only nothing"),
        ({"a": np.zeros((4, 3)), "b": np.zeros((4, 2))}, "no array `points`, only a, b"),
        ({"a": np.zeros((4, 3)), "b": np.zeros((2, 4, 3))}, "no array `points`, only a, b"),
        ({"a": np.zeros((4, 6)), "b": np.zeros((5, 6))}, "no array `points`, only a, b"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, "no array `points`, only x, y"),
        ({"x": np.zeros(0), "y": np.zeros(0)}, "without points"),
        ({"depth": np.zeros((240, 320))}, "no array `points`, only depth"),
        ({"points": np.zeros(3)}, r"shape \(3,\)"),
        ({"points": np.zeros((240, 320))}, "depth_to_points"),
    ],
)
def test_refused_files(tmp_path, arrays, found):
    with pytest.raises(ValueError, match=found):
        npz(tmp_path, **arrays)


@pytest.mark.parametrize("names", [["points"], ["xyz"], ["left", "right"], ["x", "y"]])
def test_bombs(tmp_path, monkeypatch, names):
    monkeypatch.setattr("pyro_pcflow.ops.array_files._FREE_BYTES", 1 << 16)
    shape = (100_000,) if "x" in names else (100_000, 3)
    np.savez_compressed(tmp_path / "a.npz", **{name: np.zeros(shape) for name in names})
    with pytest.raises(ValueError, match="would unpack to"):
        read_npz(tmp_path / "a.npz", None, None)


def check_damaged(tmp_path, seed):
    generator = random.Random(seed)
    stream = io.BytesIO()
    kind = generator.randrange(5)
    points = NUMBERS.astype("f4").reshape(20, 3)
    if kind == 0:
        np.save(stream, points)
    elif kind == 1:
        np.save(stream, np.zeros(5, [("x", "f4"), ("y", "f4"), ("rgb", "u1", (3,))]))
    elif kind == 2:
        np.savez(stream, points=points[None], split=np.array(["a"]), labels=np.array([1]))
    elif kind == 3:
        np.savez_compressed(stream, x=np.zeros(4), y=np.zeros(4), z=np.zeros(4))
    else:
        np.savez(stream, a=points, b=points[:5])
    path = tmp_path / "a.bin"
    path.write_bytes(damaged(stream.getvalue(), generator))
    try:
        found = read_npy(path) if kind < 2 else read_npz(path, generator.choice([None, "a"]), None)
    except (
        ValueError,
        SyntaxError,
        KeyError,
        TypeError,
        EOFError,
        OSError,
        NotImplementedError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return False  # `read_file` makes one error of what parsers of numpy and zip raise
    assert isinstance(found, CloudArray) or all(len(table) for table in found)
    return True


def test_damaged_files(tmp_path):
    results = [check_damaged(tmp_path, seed) for seed in range(300)]
    assert 10 < sum(results) < 290


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    for seed in range(300, 5000):
        check_damaged(tmp_path, seed)
