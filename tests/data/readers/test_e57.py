"""E57 files of its own library against the formulas of the standard, and damage that its checksums cannot see."""

import io
import struct

import numpy as np
import pytest

from helpers.scan_files import damaged, double, from_pages, scaled, single, to_pages, whole, write_e57
from pyro_pcflow.data.readers.e57 import read_e57

pytest.importorskip("pye57", reason="pye57 is not installed")

HALF = 0.5**0.5


def cartesian(number, kind=double, seed=0, dtype=np.float64):
    points = np.random.default_rng(seed).normal(size=(3, number)).astype(dtype)
    return {f"cartesian{axis}": (kind, values) for axis, values in zip("XYZ", points, strict=True)}


def load(tmp_path, *scans):
    path = tmp_path / "a.e57"
    path.unlink(missing_ok=True)
    write_e57(path, scans)
    return read_e57(path)


def coordinates(table):
    return np.stack([table.columns[name] for name in "xyz"])


def stored(fields):
    return np.stack([values for _, values in list(fields.values())[:3]]).astype(np.float64)


@pytest.mark.parametrize("number", [1, 2, 500, 5000])
@pytest.mark.parametrize("kind", [double, single])
def test_coordinates_without_a_pose_stay_as_they_are(tmp_path, number, kind):
    dtype = np.float64 if kind is double else np.float32
    fields = cartesian(number, kind, dtype=dtype)
    [table] = load(tmp_path, {"fields": fields})
    assert coordinates(table).dtype == dtype
    assert coordinates(table).tolist() == stored(fields).tolist()
    assert table.name is None
    assert table.named


ROTATIONS = {
    "none": ((1.0, 0, 0, 0), lambda x, y, z: (x, y, z)),
    "turn z": ((HALF, 0, 0, HALF), lambda x, y, z: (-y, x, z)),
    "turn x": ((HALF, HALF, 0, 0), lambda x, y, z: (x, -z, y)),
    "turn y": ((HALF, 0, HALF, 0), lambda x, y, z: (z, y, -x)),
    "around": ((0.5, 0.5, 0.5, 0.5), lambda x, y, z: (z, x, y)),
    "half": ((0.0, 0, 0, 1), lambda x, y, z: (-x, -y, z)),
    "negative": ((-HALF, 0, 0, -HALF), lambda x, y, z: (-y, x, z)),
}


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("shift", [(0.0, 0, 0), (1e6, -2.5, 3.25)])
@pytest.mark.parametrize("kind", [double, single])
def test_poses(tmp_path, name, shift, kind):
    rotation, expected = ROTATIONS[name]
    fields = cartesian(50, kind, dtype=np.float64 if kind is double else np.float32)
    [table] = load(tmp_path, {"fields": fields, "pose": (rotation, shift), "name": name})
    wanted = np.stack(expected(*stored(fields))) + np.array(shift)[:, None]
    np.testing.assert_allclose(coordinates(table), wanted, rtol=1e-15, atol=1e-9 if shift[0] else 1e-15)
    assert table.name == name
    moved = name != "none" or shift[0]
    assert table.columns["x"].dtype == (np.float64 if moved or kind is double else np.float32)


@pytest.mark.parametrize("pose", [(None, (1.0, 2.0, 3.0)), ((HALF, 0.0, 0.0, HALF), None)])
def test_half_a_pose(tmp_path, pose):
    fields = cartesian(5)
    [table] = load(tmp_path, {"fields": fields, "pose": pose})
    x, y, z = stored(fields)
    wanted = (x + 1, y + 2, z + 3) if pose[0] is None else (-y, x, z)
    np.testing.assert_allclose(coordinates(table), wanted, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("rotation", [(0.0, 0, 0, 0), (2.0, 0, 0, 0), (0.9, 0, 0, 0), (1.0, 1.0, 0, 0)])
def test_rotations_that_are_none(tmp_path, rotation):
    with pytest.raises(ValueError, match="pose that is none"):
        load(tmp_path, {"fields": cartesian(5), "pose": (rotation, (0.0, 0, 0))})


@pytest.mark.parametrize("posed", [False, True])
def test_spherical_coordinates(tmp_path, posed):
    fields = {
        "sphericalRange": (double, np.array([1.0, 2, 2, 3, 0])),
        "sphericalAzimuth": (double, np.array([0, np.pi / 2, np.pi, 0, 1])),
        "sphericalElevation": (double, np.array([0, 0, np.pi / 6, np.pi / 2, 1])),
    }
    scan = {"fields": fields} | ({"pose": ((1.0, 0, 0, 0), (10.0, 0, 0))} if posed else {})
    [table] = load(tmp_path, scan)
    wanted = np.array([[1, 0, -(3**0.5), 0, 0], [0, 2, 0, 0, 0], [0, 0, 1, 3, 0]], float)
    wanted[0] += 10 * posed
    np.testing.assert_allclose(coordinates(table), wanted, atol=1e-14)
    assert list(table.columns) == ["x", "y", "z"]


@pytest.mark.parametrize(("scale", "offset"), [(0.001, 0.0), (0.25, 100.0), (1e-6, -7e5)])
@pytest.mark.parametrize(("low", "high"), [(-1000, 1000), (0, 1), (5, 2**20), (-(2**31), 2**31 - 1), (-(2**40), 2**40)])
def test_scaled_integers(tmp_path, scale, offset, low, high):
    raw = np.random.default_rng(0).integers(low, high, (3, 100), endpoint=True)
    raw[:, 0], raw[:, 1] = low, high
    kind = scaled(low, high, scale, offset)
    fields = {f"cartesian{axis}": (kind, values * scale + offset) for axis, values in zip("XYZ", raw, strict=True)}
    [table] = load(tmp_path, {"fields": fields})
    assert coordinates(table).tolist() == (raw * scale + offset).tolist()


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, np.uint8),
        (-128, 127, np.int8),
        (0, 256, np.uint16),
        (-129, 0, np.int16),
        (0, 2**32 - 1, np.uint32),
        (-(2**31), 5, np.int32),
        (-(2**40), 2**40, np.int64),
        (-(2**63), 2**63 - 1, np.int64),
    ],
)
def test_whole_numbers_of_every_size(tmp_path, low, high, dtype):
    values = np.array([low, high, min(max(0, low), high), low], np.int64)
    [table] = load(tmp_path, {"fields": cartesian(4) | {"rowIndex": (whole(low, high), values)}})
    assert table.columns["row"].tolist() == values.tolist()
    assert table.columns["row"].dtype == dtype


def test_columns_and_their_names(tmp_path):
    rng = np.random.default_rng(0)
    more = {
        "intensity": (single, rng.random(30).astype(np.float32)),
        "colorRed": (whole(0, 255), rng.integers(0, 256, 30)),
        "colorGreen": (whole(0, 255), rng.integers(0, 256, 30)),
        "colorBlue": (whole(0, 255), rng.integers(0, 256, 30)),
        "rowIndex": (whole(0, 1000), rng.integers(0, 1000, 30)),
        "columnIndex": (whole(7, 7), np.full(30, 7)),
        "timeStamp": (double, rng.random(30)),
        "returnIndex": (whole(0, 3), rng.integers(0, 4, 30)),
        "isColorInvalid": (whole(0, 1), rng.integers(0, 2, 30)),
    }
    [table] = load(tmp_path, {"fields": cartesian(30) | more})
    names = ["intensity", "red", "green", "blue", "row", "column", "time", "returnIndex", "isColorInvalid"]
    assert list(table.columns) == ["x", "y", "z", *names]
    for name, (_, values) in zip(names, more.values(), strict=True):
        assert table.columns[name].tolist() == values.tolist()
    assert table.columns["intensity"].dtype == np.float32


@pytest.mark.parametrize("name", ["cartesianInvalidState", "sphericalInvalidState"])
@pytest.mark.parametrize("posed", [False, True])
@pytest.mark.parametrize("kind", [single, whole(-10, 10)])
def test_invalid_points_have_no_coordinates(tmp_path, name, posed, kind):
    fields = {f"cartesian{axis}": (kind, np.arange(3).astype(np.float32 if kind is single else int)) for axis in "XYZ"}
    fields |= {name: (whole(0, 2), np.array([0, 1, 2])), "intensity": (double, np.arange(3.0))}
    scan = {"fields": fields} | ({"pose": ((HALF, 0, 0, HALF), (0.0, 0, 0))} if posed else {})
    [table] = load(tmp_path, scan)
    assert np.isnan(coordinates(table)).tolist() == [[False, True, True]] * 3
    assert table.columns["intensity"].tolist() == [0, 1, 2]
    assert name not in table.columns


def test_each_scan_is_a_table(tmp_path):
    scans = [
        {"fields": cartesian(5, seed=1), "name": "first"},
        {"fields": cartesian(0), "name": "empty"},
        {"fields": cartesian(2000, seed=2), "name": "secönd", "pose": ((0.0, 0, 0, 1), (1.0, 2, 3))},
        {"fields": cartesian(3, seed=3), "name": ""},
    ]
    tables = load(tmp_path, *scans)
    assert [(table.name, len(table)) for table in tables] == [("first", 5), ("secönd", 2000), (None, 3)]
    assert tables[0].columns["x"].tolist() == scans[0]["fields"]["cartesianX"][1].tolist()
    np.testing.assert_allclose(tables[1].columns["x"], 1 - scans[2]["fields"]["cartesianX"][1], atol=1e-15)


@pytest.mark.parametrize("scans", [[], [{"fields": cartesian(0)}]])
def test_files_without_points(tmp_path, scans):
    with pytest.raises(ValueError, match="no scan with points"):
        load(tmp_path, *scans)


def test_scans_without_coordinates(tmp_path):
    fields = cartesian(3)
    del fields["cartesianZ"]
    with pytest.raises(ValueError, match="neither cartesianX"):
        load(tmp_path, {"fields": fields})


# ---- damage


def good(tmp_path):
    path = tmp_path / "good.e57"
    if not path.exists():
        more = {
            "intensity": (scaled(0, 1000, 0.001, 0.0), np.linspace(0, 1, 60)),
            "colorRed": (whole(0, 255), np.arange(60)),
            "cartesianInvalidState": (whole(0, 2), np.arange(60) % 3),
        }
        pose = ((HALF, 0, 0, HALF), (1.0, 2, 3))
        scans = [{"fields": cartesian(60) | more, "pose": pose, "name": "a"}, {"fields": cartesian(40, single)}]
        scans[1]["fields"] = {name: (single, values.astype(np.float32)) for name, (_, values) in cartesian(40).items()}
        write_e57(path, scans)
    return path.read_bytes()


def refuse(tmp_path, data, message):
    path = tmp_path / "bad.e57"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_e57(path)


@pytest.mark.parametrize(("at", "message"), [(700, "checksum of page 0 is wrong"), (40, "pages of")])
def test_files_are_checked_before_they_are_parsed(tmp_path, at, message):
    data = bytearray(good(tmp_path))
    data[at] ^= 1
    refuse(tmp_path, bytes(data), message)


def with_xml(data, change):
    """Another description, and right checksums."""
    logical = from_pages(data)
    start, length = struct.unpack_from("<QQ", logical, 24)
    start = start // 1024 * 1020 + start % 1024
    xml = change(logical[start : start + length])
    logical = bytearray(logical[:start] + xml)
    pages = -(-len(logical) // 1020)
    struct.pack_into("<QQQ", logical, 16, pages * 1024, start // 1020 * 1024 + start % 1020, len(xml))
    return to_pages(bytes(logical))


def test_a_changed_description_is_read(tmp_path):
    path = tmp_path / "other.e57"
    path.write_bytes(with_xml(good(tmp_path), lambda xml: xml.replace(b"CDATA[a]", b"CDATA[abc]")))
    assert read_e57(path)[0].name == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xml: xml.replace(b'recordCount="60"', b'recordCount="61"'), "61 points|damaged"),
        (lambda xml: xml.replace(b'recordCount="60"', b'recordCount="-1"'), "-1 points|damaged"),
        (lambda xml: xml.replace(b'recordCount="60"', b'recordCount="9000000000000000000"'), "far smaller"),
        (lambda xml: xml.replace(b'fileOffset="48"', b'fileOffset="480000"'), "damaged"),
        (lambda xml: xml.replace(b'fileOffset="48"', b'fileOffset="52"'), "damaged"),
        (lambda xml: xml.replace(b"data3D", b"data4D"), "no scans"),
        (lambda xml: xml.replace(b'<data3D type="Vector"', b'<data3D type="Structure"'), "damaged|not that"),
        (lambda xml: xml.replace(b"cartesianX", b"cartesianQ"), "neither"),
        (lambda xml: xml.replace(b"7.0710678", b"9.0710678"), "pose that is none|damaged"),
        (
            lambda xml: xml.replace(b'<name type="String"><![CDATA[a]]></name>', b'<pose type="Integer"/>'),
            "damaged|not that",
        ),
    ],
)
def test_descriptions_that_are_refused(tmp_path, change, message):
    data = good(tmp_path)
    changed = with_xml(data, change)
    assert changed != with_xml(data, bytes)
    refuse(tmp_path, changed, message)


def fuzz(tmp_path, seeds):
    """Half of the files have right checksums again: the library itself sees the damage, and must not crash."""
    logical = from_pages(good(tmp_path))
    read = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        if seed % 4 == 0:
            data = damaged(good(tmp_path), rng)
        elif seed % 4 == 1:
            data = with_xml(good(tmp_path), lambda xml, rng=rng: damaged(xml, rng))
        else:
            changed = bytearray(logical)
            # Bytes of the packets, where no XML parser is in the way.
            end = struct.unpack_from("<Q", logical, 24)[0] if seed % 4 == 2 else len(logical)
            for _ in range(int(rng.integers(1, 6))):
                changed[int(rng.integers(48, end))] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
            data = to_pages(bytes(changed))
        path = tmp_path / "fuzz.e57"
        path.write_bytes(data)
        try:
            tables = read_e57(path)
        except ValueError:
            continue
        read += 1
        for table in tables:
            assert len({len(values) for values in table.columns.values()}) == 1
    assert read


def test_damaged_files_crash_nothing_and_say_nothing(tmp_path, capfd):
    fuzz(tmp_path, range(160))
    assert capfd.readouterr() == ("", "")


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path, capfd):
    fuzz(tmp_path, range(1000, 6000))
    assert capfd.readouterr() == ("", "")


def test_a_file_is_closed_after_an_error(tmp_path):
    refuse(tmp_path, with_xml(good(tmp_path), lambda xml: xml.replace(b"cartesianX", b"cartesianQ")), "neither")
    (tmp_path / "bad.e57").unlink()
    assert io.BytesIO(good(tmp_path)).read(8) == b"ASTM-E57"
