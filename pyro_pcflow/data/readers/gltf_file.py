"""glTF files: their JSON, the buffers that it describes, and how its entries are looked up."""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyro_pcflow.ops.reading import check_regular, shortened

__all__ = ["GltfFile", "entries", "numbers", "pick", "whole"]

_JSON, _BIN = b"JSON", b"BIN\0"
# What changes nothing about where the points are.
_HARMLESS = re.compile(
    r"KHR_(mesh_quantization|materials_\w+|texture_\w+|lights_\w+|xmp\w*|animation_pointer)"
    r"|EXT_(mesh_gpu_instancing|texture_\w+|lights_\w+|materials_\w+)|MSFT_texture_dds"
)
_MESHOPT = "EXT_meshopt_compression"


class GltfFile:
    """A glTF file, binary or text.

    Attributes:
        header: its JSON.
        size: bytes of the file and of the buffers that were read.

    Args:
        path: the file.

    Raises:
        ValueError: damaged, or in need of an extension that isn't read.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self._folder = path.parent
        self._blob: bytes | None = None
        self._buffers: dict[int, bytes] = {}
        if data[:4] == b"glTF" or path.suffix.lower() == ".glb":
            text, self._blob = _chunks(data)
        else:
            text = data
        self.header = _parse(text)
        self.size = len(data)
        version = self.header.get("asset", {"version": "2.0"})
        if not isinstance(version, dict) or not str(version.get("version", "2.0")).startswith("2"):
            raise ValueError("glTF of another version than 2.0")
        required = self.header.get("extensionsRequired", [])
        for name in required if isinstance(required, list) else [required]:
            if not _HARMLESS.fullmatch(str(name)):
                raise ValueError(f"it needs the extension {str(name)[:60]}, which isn't read; export it without")

    def buffer(self, index: Any) -> bytes:
        """The bytes of a buffer.

        Raises:
            ValueError: there are fewer than it promises, or they lie elsewhere than in the file or beside it.
        """
        entry = pick(self.header, "buffers", index)
        if index not in self._buffers:
            self._buffers[index] = self._load(entry, index)
        return self._buffers[index]

    def _load(self, entry: dict[str, Any], index: int) -> bytes:
        size = whole(entry.get("byteLength"))
        uri = entry.get("uri")
        if uri is None:
            if _MESHOPT in entry.get("extensions", {}):
                raise ValueError(f"geometry compressed by {_MESHOPT}, which isn't read; export it without")
            if index != 0 or self._blob is None:
                raise ValueError(f"buffer {index} has no data")
            found = self._blob
        elif not isinstance(uri, str):
            raise ValueError(f"{shortened(uri)} stands where a buffer's address belongs")
        elif uri[:5].lower() == "data:":
            found = _inline(uri)
        else:
            found = self._beside(uri, size)
        if len(found) < size:
            raise ValueError(f"buffer {index} promises {size} bytes, found {len(found)}")
        return found[:size]

    def _beside(self, uri: str, size: int) -> bytes:
        name = unquote(uri)
        where = f"geometry lies in another file, {shortened(uri)}"
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name) or "\\" in name or "\0" in name or Path(name).is_absolute():
            raise ValueError(f"{where}, which isn't in its folder")
        try:
            folder = self._folder.resolve()
            path = (folder / name).resolve()
            if not path.is_relative_to(folder):
                raise ValueError(f"{where}, which isn't in its folder")
            check_regular(path)
            if path.stat().st_size < size:
                raise ValueError(f"{where} of {path.stat().st_size} bytes; {size} are promised")
            with path.open("rb") as file:
                found = file.read(size)
        except OSError as error:
            raise ValueError(f"{where}, which can't be read ({error.strerror})") from error
        self.size += len(found)
        return found


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """The JSON of a GLB, and its binary chunk if it has one."""
    if data[:4] != b"glTF" or data[16:20] != _JSON:
        raise ValueError("no GLB header")
    version, length = int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:12], "little")
    if version != 2:
        raise ValueError(f"a GLB of version {version}, export it as version 2")
    if length != len(data):
        raise ValueError(f"header promises {length} bytes, the file has {len(data)}")
    text, blob, start = b"", None, 12
    while start < len(data):
        size, kind = int.from_bytes(data[start : start + 4], "little"), data[start + 4 : start + 8]
        if start + 8 + size > len(data):
            raise ValueError("chunks don't fill the file")
        if start == 12:
            text = data[start + 8 : start + 8 + size]
        elif kind == _BIN and blob is None:
            blob = data[start + 8 : start + 8 + size]
        start += 8 + size
    return text, blob


def _parse(text: bytes) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} in the JSON of a glTF file")

    try:
        header = json.loads(text.decode("utf-8-sig"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("the JSON of a glTF file is nested too deep") from None
    if not isinstance(header, dict):
        raise ValueError("no glTF: its JSON is no object")
    return header


def _inline(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError("a buffer within the JSON that isn't in base64")
    try:
        # The padding is left out by some.
        plain = unquote(body)
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a buffer within the JSON that isn't in base64") from None


def entries(owner: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects within an object of the JSON; empty where it's missing.

    Raises:
        ValueError: something else stands there.

    Examples:
        >>> entries({"nodes": [{}]}, "nodes"), entries({}, "nodes")
        ([{}], [])
    """
    found = owner.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{shortened(found)} stands where '{key}' of a glTF file belong")
    return found


def pick(owner: dict[str, Any], key: str, index: Any) -> dict[str, Any]:
    """One of a list of objects.

    Raises:
        ValueError: there is none of that index.

    Examples:
        >>> pick({"nodes": [{"mesh": 3}]}, "nodes", 0)
        {'mesh': 3}
    """
    found = owner.get(key, [])
    # Only the one that is asked for is looked at: there may be as many questions as entries.
    if not isinstance(found, list) or (whole(index) < len(found) and not isinstance(found[index], dict)):
        raise ValueError(f"{shortened(found)} stands where '{key}' of a glTF file belong")
    if index >= len(found):
        raise ValueError(f"{index} of '{key}' is asked for, and there are {len(found)}")
    return found[index]


def whole(value: Any) -> int:
    """A size, count or index.

    Raises:
        ValueError: no whole number, or a negative one.

    Examples:
        >>> whole(3)
        3
    """
    # bool is an int, and a huge float would pass for a size.
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{shortened(value)} stands where a size or an index belongs")
    return value


def numbers(owner: dict[str, Any], key: str, default: list[float]) -> list[float]:
    """A list of as many numbers as the default has.

    Raises:
        ValueError: something else stands there.

    Examples:
        >>> numbers({"scale": [2, 2, 2]}, "scale", [1.0, 1.0, 1.0])
        [2.0, 2.0, 2.0]
    """
    found = owner.get(key, default)
    if not isinstance(found, list) or len(found) != len(default) or any(type(v) not in (int, float) for v in found):
        raise ValueError(f"{shortened(found)} stands where {len(default)} numbers of '{key}' belong")
    try:
        return [float(value) for value in found]
    except OverflowError:
        raise ValueError(f"a huge number in '{key}'") from None
