"""Containers of glTF: chunks, buffers and the values of their JSON."""

from __future__ import annotations

import json
import struct

import pytest

from helpers.cloud_files import put
from helpers.mesh_files import Gltf, pack_glb
from pyro_pcflow.data.readers.gltf_file import GltfFile, entries, numbers, pick, whole

TEXT = json.dumps({"asset": {"version": "2.0"}, "buffers": [{"byteLength": 5}]}).encode()
GLB = pack_glb(TEXT, b"12345")


def test_chunks(tmp_path):
    file = GltfFile(put(tmp_path, "a.glb", GLB))
    assert file.buffer(0) == b"12345"
    assert file.size == len(GLB)
    # An unknown chunk is passed over.
    data = GLB + struct.pack("<I4s", 4, b"MORE") + b"1234"
    data = data[:8] + struct.pack("<I", len(data)) + data[12:]
    assert GltfFile(put(tmp_path, "a.glb", data)).buffer(0) == b"12345"


@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_the_content_says_whether_it_is_binary(tmp_path, kind):
    assert GltfFile(put(tmp_path, f"a.{kind}", GLB)).buffer(0) == b"12345"


BAD = {
    "words": (b"hello" * 10, "no GLB header"),
    "empty": (b"", "no GLB header"),
    "text": (TEXT, "no GLB header"),
    "version": (GLB[:4] + b"\1" + GLB[5:], "a GLB of version 1"),
    "cut": (GLB[:-4], "header promises"),
    "long": (GLB + b"more", "header promises"),
    "chunk": (GLB[:12] + struct.pack("<I", 2**32 - 1) + GLB[16:], "chunks don't fill the file"),
    "words in the JSON": (pack_glb(b"hello", b""), "Expecting value"),
    "list": (pack_glb(b"[]", b""), "its JSON is no object"),
    "older": (pack_glb(b'{"asset": {"version": "1.0"}}', b""), "another version than 2.0"),
    "NaN": (pack_glb(b'{"a": NaN}', b""), "NaN in the JSON"),
    "deep": (pack_glb(b"[" * 200_000 + b"]" * 200_000, b""), "nested too deep"),
    "long number": (pack_glb(b'{"a": ' + b"1" * 5000 + b"}", b""), "digits"),
    "bytes": (pack_glb(b'{"a": "\xff"}', b""), "utf-8"),
    "required": (pack_glb(b'{"extensionsRequired": "X_y"}', b""), "the extension X_y"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        GltfFile(put(tmp_path, "a.glb", data))


@pytest.mark.parametrize(
    ("buffer", "found"),
    [
        ({"byteLength": 9}, "buffer 0 promises 9 bytes, found 8"),
        ({}, "None stands where a size"),
        ({"byteLength": 4, "uri": 3}, "3 stands where a buffer's address"),
        ({"byteLength": 4, "uri": "data:,abcd"}, "isn't in base64"),
        ({"byteLength": 4, "uri": "data:x;base64"}, "isn't in base64"),
        ({"byteLength": 4, "uri": "data:x;base64,a*b"}, "isn't in base64"),
        ({"byteLength": 4, "uri": "data:x;base64,AAAA"}, "promises 4 bytes, found 3"),
    ],
)
def test_bad_buffers(tmp_path, buffer, found):
    file = GltfFile(put(tmp_path, "a.glb", pack_glb(json.dumps({"buffers": [buffer]}).encode(), b"12345")))
    with pytest.raises(ValueError, match=found):
        file.buffer(0)


def test_buffers_without_data(tmp_path):
    header = {"buffers": [{"byteLength": 1}, {"byteLength": 1, "extensions": {"EXT_meshopt_compression": {}}}]}
    file = GltfFile(put(tmp_path, "a.gltf", json.dumps(header).encode()))
    with pytest.raises(ValueError, match="buffer 0 has no data"):
        file.buffer(0)
    with pytest.raises(ValueError, match="compressed by EXT_meshopt_compression"):
        file.buffer(1)
    with pytest.raises(ValueError, match="2 of 'buffers' is asked for, and there are 2"):
        file.buffer(2)


@pytest.mark.parametrize(
    "uri", ["data:;base64,AAEC", "DATA:a/b;BASE64,AAEC", "data:a;base64,AA%45C", "data:a;base64,AAECAw"]
)
def test_inline_buffers(tmp_path, uri):
    header = {"buffers": [{"byteLength": 3, "uri": uri}]}
    file = GltfFile(put(tmp_path, "a.gltf", json.dumps(header).encode()))
    assert file.buffer(0) == b"\0\1\2"


def test_values():
    assert entries({}, "nodes") == []
    assert pick({"nodes": [{}, {"a": 1}]}, "nodes", 1) == {"a": 1}
    assert numbers({}, "scale", [1.0, 2.0]) == [1.0, 2.0]
    for value in (True, -1, 1.0, "1", None, 1 << 62):
        with pytest.raises(ValueError, match="stands where a size or an index belongs"):
            whole(value)
    for value in ([True, 1], [1], "12", None, [1, None]):
        with pytest.raises(ValueError, match="stands where 2 numbers of 'scale' belong"):
            numbers({"scale": value}, "scale", [1.0, 2.0])


def test_utf8_byte_order_mark(tmp_path):
    assert GltfFile(put(tmp_path, "a.gltf", b"\xef\xbb\xbf" + Gltf().cube().gltf())).header["scene"] == 0
