"""HDF5 files in the layouts of known data sets and others, and what must not be read."""

import zlib
from contextlib import suppress

import numpy as np
import pytest

from helpers.scan_files import damaged
from pyro_pcflow.data.readers.hdf5 import read_hdf5
from pyro_pcflow.data.shapes import CloudArray

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


def clouds(seed=0, shape=(4, 10, 3), dtype=np.float32):
    return (np.random.default_rng(seed).normal(size=shape) * 10).astype(dtype)


def write(tmp_path, items, name="a.h5", **options):
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        for key, values in items.items():
            file.create_dataset(key, data=values, **options)
    return path


def same(found, points, labels=None, splits=None):
    assert isinstance(found, CloudArray)
    assert found.points.tolist() == np.asarray(points).tolist()
    assert (None if found.labels is None else found.labels.tolist()) == labels
    assert (None if found.splits is None else found.splits.tolist()) == splits


def test_modelnet(tmp_path):
    labels = np.array([[3], [0], [39], [3]], np.uint8)
    items = {"data": clouds(), "faceId": np.ones((4, 10), np.int32), "label": labels, "normal": clouds(1)}
    found = read_hdf5(write(tmp_path, items, compression="gzip"))
    same(found, clouds(), [3, 0, 39, 3])
    assert found.points.dtype == np.float32
    assert found.labels.dtype == np.uint8


def test_shapenet_parts(tmp_path):
    items = {"data": clouds(), "label": np.array([[1], [2], [3], [4]]), "pid": np.ones((4, 10), np.uint8)}
    same(read_hdf5(write(tmp_path, items)), clouds(), [1, 2, 3, 4])


def test_scanobjectnn(tmp_path):
    items = {"data": clouds(), "label": np.arange(4, dtype=np.int32), "mask": -np.ones((4, 10), np.int32)}
    same(read_hdf5(write(tmp_path, items)), clouds(), [0, 1, 2, 3])


def test_part_labels_are_of_no_cloud(tmp_path):
    items = {"data": clouds(), "label": np.ones((4, 10), np.int32)}
    same(read_hdf5(write(tmp_path, items)), clouds())


@pytest.mark.parametrize("name", ["points", "xyz", "data", "pos", "pcd", "Points", "group/points", "a/b/c/pos"])
@pytest.mark.parametrize("shape", [(4, 10, 3), (10, 3), (10, 2), (10, 7), (1, 1, 3)])
def test_named_arrays(tmp_path, name, shape):
    items = {name: clouds(1, shape), "other": clouds(2, (5, 6)), "count": np.arange(3)}
    points = clouds(1, shape)
    same(read_hdf5(write(tmp_path, items, "a.hdf5")), points if len(shape) == 3 else points[None])


@pytest.mark.parametrize(
    "beside", [{}, {"normals": clouds(1)}, {"rgb": clouds(1)}, {"label": np.arange(4), "b": np.arange(7)}]
)
def test_a_single_array_of_another_name(tmp_path, beside):
    labels = [0, 1, 2, 3] if "label" in beside else None
    same(read_hdf5(write(tmp_path, {"vertices": clouds(), **beside})), clouds(), labels)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "<i2", ">i4", "<i8", "<u1", ">u2"])
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2, 3, 3)}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf", "fletcher32": True}],
)
def test_types_and_storage(tmp_path, dtype, options):
    values = np.abs(clouds(3)).astype(dtype)
    found = read_hdf5(write(tmp_path, {"data": values}, **options))
    same(found, values)
    assert found.points.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([1.0, 2, 3, 4]), [1, 2, 3, 4]),
        (np.array([b"chair", b"desk", b"chair", b"t\xc3\xb6pf"]), ["chair", "desk", "chair", "töpf"]),
        (np.array([[2], [2], [2], [1]], ">i8"), [2, 2, 2, 1]),
    ],
)
@pytest.mark.parametrize("name", ["label", "labels", "Label"])
def test_labels(tmp_path, labels, expected, name):
    same(read_hdf5(write(tmp_path, {"data": clouds(), name: labels})), clouds(), expected)


@pytest.mark.parametrize("split", [None, "train", "test"])
@pytest.mark.parametrize("names", [("train/data", "test/data"), ("train", "test"), ("a/train/points", "a/test/points")])
def test_splits(tmp_path, split, names):
    parts = {"train": clouds(1, (3, 10, 3)), "test": clouds(2, (2, 10, 3))}
    path = write(tmp_path, dict(zip(names, parts.values(), strict=True)))
    # Groups are read in the order of their names.
    order = ["test", "train"] if split is None else [split]
    found = read_hdf5(path, split)
    got = {
        name: [row for row, of in zip(found.points.tolist(), found.splits.tolist(), strict=True) if of == name]
        for name in order
    }
    assert got == {name: parts[name].tolist() for name in order}
    assert found.labels is None
    assert len(found.points) == sum(len(parts[name]) for name in order)


def test_splits_with_labels_of_their_own(tmp_path):
    items = {}
    for index, split in enumerate(("train", "val")):
        items |= {f"{split}/data": clouds(index), f"{split}/label": np.arange(4) + 10 * index}
    same(read_hdf5(write(tmp_path, items), "val"), clouds(1), [10, 11, 12, 13], ["val"] * 4)
    assert sorted(read_hdf5(write(tmp_path, items)).labels.tolist()) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_classes_beside_splits(tmp_path):
    items = {
        f"{name}/{split}": clouds(index, (2, 10, 3))
        for index, (name, split) in enumerate([("02691156", "train"), ("02691156", "val"), ("03001627", "train")])
    }
    found = read_hdf5(write(tmp_path, items), "train")
    got = {label: found.points[found.labels == label].tolist() for label in ("02691156", "03001627")}
    assert got == {"02691156": items["02691156/train"].tolist(), "03001627": items["03001627/train"].tolist()}
    same(read_hdf5(write(tmp_path, items), "val"), items["02691156/val"], None, ["val"] * 2)


def test_fields_are_a_table(tmp_path):
    rows = np.zeros(5, [("x", "<f4"), ("y", "<f8"), ("z", ">f4"), ("n", "<f4", (3,)), ("id", "<i8"), ("word", "S4")])
    for name in ("x", "y", "z", "id"):
        rows[name] = np.arange(5) + 0.5
    rows["n"] = np.arange(15).reshape(5, 3)
    rows["word"] = [b"a", b"b", b"c", b"", b"abcd"]
    [table] = read_hdf5(write(tmp_path, {"scans/first": rows}))
    assert list(table.columns) == ["x", "y", "z", "n_0", "n_1", "n_2", "id", "word"]
    assert table.name == "scans/first"
    assert table.columns["y"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert table.columns["z"].dtype == np.float32
    assert table.columns["n_1"].tolist() == [1, 4, 7, 10, 13]
    assert table.columns["id"].dtype == np.int64
    assert table.columns["word"].tolist() == ["a", "b", "c", "", "abcd"]


def test_several_tables_of_the_same_fields(tmp_path):
    rows = np.ones(5, [("x", "f4"), ("y", "f4")])
    tables = read_hdf5(write(tmp_path, {"a": rows, "b": rows[:2]}))
    assert sorted((table.name, len(table)) for table in tables) == [("a", 5), ("b", 2)]


@pytest.mark.parametrize("group", ["", "scan/"])
def test_columns_of_a_group_are_a_table(tmp_path, group):
    values = {
        f"{group}{name}": np.arange(6) * factor
        for name, factor in (("x", 0.5), ("y", 2), ("z", -1.0), ("intensity", 3))
    }
    [table] = read_hdf5(write(tmp_path, values | {f"{group}other": np.arange(5)}))
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        name: values[group + name].tolist() for name in ("x", "y", "z", "intensity")
    }
    assert table.name == (group[:-1] or None)


def test_soft_links_and_names_of_one_array(tmp_path):
    path = write(tmp_path, {"data": clouds()})
    with h5py.File(path, "a") as file:
        file["soft"] = h5py.SoftLink("/data")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["circle/self"] = file["/"]
        file["circle/points_again"] = file["data"]
    same(read_hdf5(path), clouds())


# ---- what is refused


def refuse(path, message, split=None):
    with pytest.raises(ValueError, match=message):
        read_hdf5(path, split)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "no array .* only nothing"),
        ({"count": np.arange(5)}, "no array .* only 'count' int64"),
        (
            {"points": clouds(), "xyz": clouds(1)},
            r"several arrays that could be clouds, 'points' float32 \(4, 10, 3\), 'xyz'",
        ),
        ({"a/points": clouds(), "b/points": clouds()}, "several arrays that could be clouds"),
        ({"first": clouds(), "second": clouds()}, "several arrays that could be clouds"),
        ({"train": clouds(), "points": clouds()}, None),
        ({"train/a": clouds(), "test/b": clouds()}, "several arrays that could be clouds"),
        ({"train/a": clouds(), "train/b": clouds()}, "several arrays that could be clouds"),
        ({"train": clouds(), "test": clouds(0, (4, 9, 3))}, "different shapes"),
        ({"train": clouds(), "test": clouds(0, dtype=np.float64)}, "no clouds of one kind"),
        ({"train": clouds()[0], "test": clouds()[0]}, "no clouds of one kind"),
        ({"train/data": clouds(), "test/data": clouds(), "test/label": np.arange(4)}, "labels in some"),
        ({"data": clouds(0, (4, 3, 100))}, "transpose it"),
        ({"data": clouds(0, (3, 100))}, "transpose it"),
        ({"data": np.zeros((0, 10, 3))}, "is empty"),
        ({"data": clouds(), "label": np.arange(5)}, r"'label' int64 \(5,\) is no label for each of 4 clouds"),
        ({"data": clouds(), "label": np.arange(4) + 0.5}, "no whole numbers"),
        ({"data": clouds(), "label": np.array([0, 1, np.nan, 2])}, "no whole numbers"),
        ({"data": clouds(), "label": np.arange(4), "labels": np.arange(4)}, "several arrays that could be labels"),
        ({"data": clouds(), "label": np.array(["a"] * 4, object)}, "variable length"),
        ({"data": np.zeros((4, 10, 3), bool)}, "no array"),
        ({"data": np.zeros((4, 10, 3), complex)}, "no array"),
        ({"a": np.zeros(5, [("x", "f4")]), "b": np.zeros(5, [("y", "f4")])}, "different fields"),
        ({"a": np.zeros(0, [("x", "f4")])}, "without rows"),
        ({"a": np.zeros(5, [("x", "f4"), ("m", "f4", (2, 2))])}, "field 'm'"),
        ({"a": np.zeros(5, [("x_1", "f4"), ("x", "f4", (2,))])}, "two columns of the name 'x_1'"),
    ],
)
def test_files_that_say_too_little_or_too_much(tmp_path, items, message):
    options = {"dtype": h5py.string_dtype()} if any(np.asarray(v).dtype.kind == "O" for v in items.values()) else {}
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key, values in items.items():
            file.create_dataset(key, data=values, **(options if values.dtype.kind == "O" else {}))
    if message is None:
        same(read_hdf5(path), clouds())
    else:
        refuse(path, message)


def test_splits_that_are_not_there(tmp_path):
    refuse(write(tmp_path, {"data": clouds()}), "says no splits", "train")
    refuse(write(tmp_path, {"train": clouds()}), "no clouds of split 'test', only of train", "test")
    refuse(write(tmp_path, {"x": np.arange(5.0)}), "says no splits", "test")


def test_other_files_and_parts_of_them(tmp_path):
    other = write(tmp_path, {"data": clouds()}, "other.h5")
    for make in (
        lambda file: file.__setitem__("data", h5py.ExternalLink("other.h5", "/data")),
        lambda file: file.create_dataset("data", (4, 10, 3), "f4", external=[(str(other), 0, 480)]),
        lambda file: file.create_virtual_dataset("data", virtual_layout()),
    ):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            make(file)
        refuse(path, "other file|another file")


def virtual_layout():
    layout = h5py.VirtualLayout((4, 10, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (4, 10, 3))
    return layout


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 10, 3)}, {"compression": "gzip"}])
def test_points_that_were_never_written(tmp_path, options):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (4, 10, 3), "f4", **options)
    refuse(path, "are stored")
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (4, 10, 3), "f4", chunks=(1, 10, 3))
        data[:2] = 1
    refuse(path, "4 chunks, of which 2 are stored")


def test_huge_arrays_in_small_files(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (10**9, 1000, 3), "f4", chunks=(1, 1000, 3))
    refuse(path, "from a far smaller file")
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (4, 10, 3), "f4", maxshape=(None, None, 3), chunks=(10**4, 10**4, 3))
        data.id.write_direct_chunk((0, 0, 0), b"a")
    refuse(path, "has chunks of 1200000000 bytes")


def with_raw_chunk(path, packed):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (4, 10, 3), "f4", chunks=(4, 10, 3), compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), packed)


def test_a_chunk_that_unpacks_without_end(tmp_path):
    path = tmp_path / "a.h5"
    with_raw_chunk(path, zlib.compress(bytes(10_000_000)))
    refuse(path, "a chunk of .* bytes that should unpack to 480|damaged")
    with_raw_chunk(path, zlib.compress(clouds().tobytes()))
    same(read_hdf5(path), clouds())
    with_raw_chunk(path, b"no zlib")
    refuse(path, "damaged")


def test_large_packed_chunks(tmp_path):
    points = np.zeros((1, 100_000, 3), np.float32)
    points[:, :, 0] = np.arange(100_000)
    path = write(tmp_path, {"data": points}, compression="gzip", chunks=points.shape)
    assert (read_hdf5(path).points == points).all()
    bomb = zlib.compress(bytes(80_000_000))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", points.shape, "f4", chunks=points.shape, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), bomb)
    refuse(path, "unpacks to far more|damaged")


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"no such file" * 100])
def test_other_bytes(tmp_path, data):
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    refuse(path, "damaged")


# ---- damage


def fuzz(tmp_path, seeds):
    rows = np.ones(20, [("x", "f4"), ("y", "f8"), ("z", "f4")])
    paths = [
        write(tmp_path, {"data": clouds(), "label": np.arange(4)}, "1.h5"),
        write(tmp_path, {"train/data": clouds(), "test/data": clouds()}, "2.h5", compression="gzip", shuffle=True),
        write(tmp_path, {"rows": rows}, "3.h5", chunks=(5,), fletcher32=True),
    ]
    with h5py.File(tmp_path / "4.h5", "w", libver="latest") as file:
        file.create_dataset("points", data=clouds(), chunks=(1, 5, 3))
        file.attrs["a"] = "b"
    good = [path.read_bytes() for path in [*paths, tmp_path / "4.h5"]]
    read = 0
    path = tmp_path / "fuzz.h5"
    for seed in seeds:
        rng = np.random.default_rng(seed)
        path.write_bytes(damaged(good[seed % len(good)], rng))
        with suppress(ValueError):
            read_hdf5(path)
            read += 1
    assert read


def test_damaged_files_crash_nothing_and_say_nothing(tmp_path, capfd):
    fuzz(tmp_path, range(250))
    assert capfd.readouterr() == ("", "")


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path, capfd):
    fuzz(tmp_path, range(1000, 5000))
    assert capfd.readouterr() == ("", "")
