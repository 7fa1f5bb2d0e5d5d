"""Arrays of a glTF file, which are strided, sparse, quantized and shared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.gltf_file import GltfFile, pick, whole
from pyro_pcflow.ops.reading import shortened

__all__ = ["Accessors"]

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
# Honest files share one buffer among many accessors; a bomb does so without end.
_SHARING = 16
_FREE_BYTES = 1 << 26


class Accessors:
    """The accessors of a file, read when they are asked for, and once.

    Args:
        file: the file.
    """

    def __init__(self, file: GltfFile) -> None:
        self._file = file
        self._read: dict[int, NDArray[Any]] = {}
        self._bytes = 0

    def count(self, index: Any) -> int:
        """How many rows an accessor has."""
        return whole(pick(self._file.header, "accessors", index).get("count"))

    def has_data(self, index: Any) -> bool:
        """Whether an accessor says where its rows are."""
        return "bufferView" in pick(self._file.header, "accessors", index)

    def indices(self, index: Any) -> NDArray[np.int64]:
        """Whole numbers that count vertices or joints, (N,)."""
        return self._checked(index, ("SCALAR",), "BHI")[:, 0].astype(np.int64)

    def joints(self, index: Any) -> NDArray[np.int64]:
        """Whole numbers, four for each vertex, (N, 4)."""
        return self._checked(index, ("VEC4",), "BH").astype(np.int64)

    def floats(self, index: Any, kind: str) -> NDArray[np.float64]:
        """Real numbers, (N, columns of `kind`); integers that are normalized are within [-1, 1]."""
        values = self._checked(index, (kind,), "bBhHIf")
        found = values.astype(np.float64)
        if pick(self._file.header, "accessors", index).get("normalized") is True and values.dtype.kind != "f":
            found = np.maximum(found / np.iinfo(values.dtype).max, -1.0)
        return found

    def _checked(self, index: Any, kinds: tuple[str, ...], types: str) -> NDArray[Any]:
        accessor = pick(self._file.header, "accessors", index)
        kind = accessor.get("type")
        if kind not in kinds:
            raise ValueError(f"an accessor of type {shortened(kind)} instead of {kinds[0]}")
        if index not in self._read:
            self._read[index] = self._load(accessor)
        values = self._read[index]
        if values.dtype.char not in types:
            raise ValueError(f"an accessor of {values.dtype} where that has no meaning")
        return values

    def _load(self, accessor: dict[str, Any]) -> NDArray[Any]:
        count, columns = whole(accessor.get("count")), _COLUMNS[accessor["type"]]
        dtype = _dtype(accessor)
        self._bytes += count * columns * dtype.itemsize
        if self._bytes > max(_FREE_BYTES, _SHARING * self._file.size):
            raise ValueError(f"accessors promise {self._bytes} bytes in a smaller file")
        sparse = accessor.get("sparse")
        if "bufferView" in accessor:
            values = self._view(accessor, count, columns, dtype)
        elif sparse is not None:
            values = np.zeros((count, columns), dtype)
        else:
            raise ValueError("an accessor without data, perhaps of compressed geometry; export it plain")
        return values if sparse is None else self._replace(values, sparse)

    def _view(self, place: dict[str, Any], count: int, columns: int, dtype: np.dtype) -> NDArray[Any]:
        """Rows of a buffer view, from an offset on."""
        view = pick(self._file.header, "bufferViews", place.get("bufferView"))
        width = columns * dtype.itemsize
        stride = whole(view.get("byteStride", width))
        start, length = whole(view.get("byteOffset", 0)), whole(view.get("byteLength"))
        offset = whole(place.get("byteOffset", 0))
        if count and (stride < width or offset + stride * (count - 1) + width > length):
            raise ValueError("an accessor reaches past its buffer view")
        buffer = self._file.buffer(view.get("buffer"))
        if start + length > len(buffer):
            raise ValueError("a buffer view reaches past its buffer")
        if not count:
            return np.zeros((0, columns), dtype)
        return np.ndarray((count, columns), dtype, buffer, start + offset, (stride, dtype.itemsize)).copy()

    def _replace(self, values: NDArray[Any], sparse: Any) -> NDArray[Any]:
        """Put single rows in place of others."""
        if not isinstance(sparse, dict) or not all(isinstance(sparse.get(key), dict) for key in ("indices", "values")):
            raise ValueError("a sparse accessor without indices and values")
        count = whole(sparse.get("count"))
        kind = _dtype(sparse["indices"])
        if kind.kind != "u" or count > len(values):
            raise ValueError(f"a sparse accessor of {count} values for {len(values)}")
        rows = self._view(sparse["indices"], count, 1, kind)[:, 0]
        if count and rows.max() >= len(values):
            raise ValueError("a sparse accessor reaches past its end")
        values[rows] = self._view(sparse["values"], count, values.shape[1], values.dtype)
        return values


def _dtype(place: dict[str, Any]) -> np.dtype:
    kind = place.get("componentType")
    if type(kind) is not int or kind not in _TYPES:
        raise ValueError(f"{shortened(kind)} stands where a type of component belongs")
    return np.dtype(_TYPES[kind])
