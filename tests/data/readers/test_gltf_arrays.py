"""Accessors of glTF: where they lie, what their numbers mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import Gltf
from pyro_pcflow.data.readers.gltf_arrays import Accessors
from pyro_pcflow.data.readers.gltf_file import GltfFile

ROWS = np.array([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])


def opened(tmp_path, file):
    return Accessors(GltfFile(put(tmp_path, "a.glb", file.glb())))


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("<i1", [-128, -127, 127], [-1, -1, 1]),
        ("<u1", [0, 51, 255], [0, 0.2, 1]),
        ("<i2", [-32768, 0, 32767], [-1, 0, 1]),
        ("<u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("<f4", [-7, 0.5, 7], [-7, 0.5, 7]),
    ],
)
def test_normalized(tmp_path, dtype, values, expected):
    file = Gltf()
    normalized, plain = file.accessor([values], dtype, normalized=True), file.accessor([values], dtype)
    accessors = opened(tmp_path, file)
    assert np.allclose(accessors.floats(normalized, "VEC3"), [expected])
    assert accessors.floats(plain, "VEC3").tolist() == [values]


def test_offsets_and_strides(tmp_path):
    file = Gltf()
    block = np.arange(24, dtype="<f4").reshape(4, 6)
    view = file.view(b"1234" + block.tobytes(), byteStride=24)
    for column in range(4):
        file.accessor(block[:, :3], bufferView=view, byteOffset=4 + 4 * column)
    accessors = opened(tmp_path, file)
    for column in range(4):
        assert accessors.floats(column, "VEC3").tolist() == block[:, column : column + 3].tolist()


def test_indices_and_joints(tmp_path):
    file = Gltf()
    for dtype in ("<u1", "<u2", "<u4"):
        file.accessor([3, 200, 0], dtype)
    file.accessor([[1, 2, 3, 4]], "<u1")
    accessors = opened(tmp_path, file)
    assert [accessors.indices(number).tolist() for number in range(3)] == [[3, 200, 0]] * 3
    assert accessors.joints(3).tolist() == [[1, 2, 3, 4]]
    assert accessors.count(0) == 3


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"count": 4}, "reaches past its buffer view"),
        ({"count": 10**12}, "accessors promise"),
        ({"count": -1}, "-1 stands where a size"),
        ({"count": "3"}, "'3' stands where a size"),
        ({"count": 2.5}, "2.5 stands where a size"),
        ({"byteOffset": 4}, "reaches past its buffer view"),
        ({"byteOffset": -4}, "-4 stands where a size"),
        ({"type": "VEC2"}, "an accessor of type 'VEC2' instead of VEC3"),
        ({"type": None}, "an accessor of type None"),
        ({"componentType": 5124}, "5124 stands where a type of component"),
        ({"componentType": [5126]}, "a list stands where a type of component"),
        ({"bufferView": 7}, "7 of 'bufferViews' is asked for"),
        ({"sparse": 3}, "without indices and values"),
        ({"sparse": {"count": 1}}, "without indices and values"),
        ({"sparse": {"count": 4, "indices": {"componentType": 5121}, "values": {}}}, "of 4 values for 3"),
        ({"sparse": {"count": 1, "indices": {"componentType": 5126}, "values": {}}}, "of 1 values for 3"),
        (
            {"sparse": {"count": 1, "indices": {"componentType": 5121, "bufferView": 1}, "values": {"bufferView": 0}}},
            "a sparse accessor reaches past its end",
        ),
    ],
)
def test_bad_accessors(tmp_path, fields, found):
    file = Gltf()
    file.accessor(ROWS)
    file.view(b"\x03")
    file.header["accessors"][0].update(fields)
    with pytest.raises(ValueError, match=found):
        opened(tmp_path, file).floats(0, "VEC3")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"byteStride": 0}, "reaches past its buffer view"),
        ({"byteStride": 8}, "reaches past its buffer view"),
        ({"byteStride": 16}, "reaches past its buffer view"),
        ({"byteLength": 10**9}, "a buffer view reaches past its buffer"),
        ({"byteOffset": 4}, "a buffer view reaches past its buffer"),
        ({"buffer": 1}, "1 of 'buffers' is asked for"),
    ],
)
def test_bad_views(tmp_path, fields, found):
    file = Gltf()
    file.accessor(ROWS)
    file.header["bufferViews"][0].update(fields)
    with pytest.raises(ValueError, match=found):
        opened(tmp_path, file).floats(0, "VEC3")


def test_arrays_without_data(tmp_path):
    file = Gltf()
    file.accessor(ROWS)
    file.header["accessors"][0].pop("bufferView")
    accessors = opened(tmp_path, file)
    assert not accessors.has_data(0)
    with pytest.raises(ValueError, match="an accessor without data, perhaps of compressed geometry"):
        accessors.floats(0, "VEC3")


def test_types_that_have_no_meaning(tmp_path):
    file = Gltf()
    file.accessor([0, 1], "<i2")
    file.accessor([[0, 1, 2, 3]])
    accessors = opened(tmp_path, file)
    with pytest.raises(ValueError, match="an accessor of int16 where that has no meaning"):
        accessors.indices(0)
    with pytest.raises(ValueError, match="an accessor of float32 where that has no meaning"):
        accessors.joints(1)
    with pytest.raises(ValueError, match="an accessor of type 'VEC4' instead of SCALAR"):
        accessors.indices(1)
