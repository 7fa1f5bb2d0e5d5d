"""Arrays of numpy: npy and npz files, plain or with named fields."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.column_names import unique_names
from pyro_pcflow.data.shapes import CloudArray, PointTable
from pyro_pcflow.ops.array_files import NpyHeader, enumerate_words, most_unpacked, read_member, read_npy_header

__all__ = ["as_stack", "as_table", "read_npy", "read_npz", "read_splits"]

# Points of more coordinates than that are an image of depths, or features.
_MOST_DIMENSIONS = 16
_MOST_COLUMNS = 4096
# Names of arrays that are of points, and are none; whole words, perhaps with others before and behind.
_NO_POINTS = re.compile(
    r"(?:^|_)(?:faces?|triangles?|tri|cells?|edges?|normals?|norms?|colou?rs?|rgba?|labels?|split|class(?:es)?|index|"
    r"indices|idx|velocit(?:y|ies)|vel|forces?|flow|features?|feats?|intensit(?:y|ies)|uvs?|weights?|poses?|"
    r"transforms?|rotations?|translations?|intrinsics?|extrinsics?|bbox(?:es)?|box(?:es)?|depths?|images?)(?:_|$)",
    re.IGNORECASE,
)
_POSITIONS = frozenset(
    {"xyz", "points", "point", "position", "positions", "pos", "coordinates", "coords", "coord", "location"}
)
_COLOURS = frozenset({"rgb", "rgba", "color", "colors", "colour", "colours"})
_NORMALS = frozenset({"normal", "normals", "n"})


def read_npy(path: Path) -> CloudArray | list[PointTable]:
    """Map a npy file, without reading it yet.

    Args:
        path: the file.

    Returns:
        Its clouds, (S, N, D): one where the array is (N, D). An array with named fields is a table instead.

    Raises:
        ValueError: not an npy file, pickled objects, a truncated file, or another shape or type.
    """
    with path.open("rb") as stream:
        header = read_npy_header(stream, path.stat().st_size)
    _check_readable(header.dtype)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return as_stack(array) if array.dtype.names is None else [as_table(array)]


def read_npz(
    path: Path, split: str | None, folder_split: str | None, array: str | None = None
) -> CloudArray | list[PointTable]:
    """Read the clouds of a npz file.

    They are the array `points`; or the only array of points; or arrays `x`, `y` and `z` of one length with those beside
    them; or several arrays (N, D), each a cloud.

    Args:
        path: the file.
        split: keep the clouds whose entry of the array `split` (S,) is this; `None` keeps all.
        folder_split: the split of all clouds where there is no such array.
        array: the name of the array of points, where the file has several.

    Returns:
        Its clouds, (S, N, D): one where the array is (N, D); with their splits and their labels, where arrays `split`
        (S,) and `labels` (S,) say them. Or tables: of `x`, `y` and `z`, of named fields, or of several arrays, which
        give them their names.

    Raises:
        ValueError: not a zip file, no such arrays, a zip bomb, or another shape.
    """
    limit = most_unpacked(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        if array is None:
            array, tables = _find_points(archive, limit)
            if array is None:
                if split not in (None, folder_split):
                    read_member(archive, "split", limit)  # says that it is not there
                    raise ValueError("a `split` for clouds that are not one array `points`")
                return tables
        found = read_member(archive, array, limit)
        if found.dtype.names is not None:
            if split not in (None, folder_split):
                raise ValueError(f"`{array}` is one table, of no split")
            return [as_table(found)]
        stack = as_stack(found)
        labels = _read_labels(archive, len(stack.points), limit)
        if "split.npy" not in archive.namelist() and split in (None, folder_split):
            return CloudArray(stack.points, labels=labels)
        splits = read_member(archive, "split", limit)
    if splits.shape != stack.points.shape[:1] or splits.dtype.kind != "U":
        if split is None:  # an array of that name about something else
            return CloudArray(stack.points, labels=labels)
        raise ValueError(f"its `split` is {splits.dtype} {splits.shape}, not a word for each of its clouds")
    if split is None:
        return CloudArray(stack.points, splits, labels)
    chosen = splits == split
    if not chosen.any():
        raise ValueError(f"no cloud with split {split!r}, only {enumerate_words(splits)}")
    return CloudArray(stack.points[chosen], splits[chosen], None if labels is None else labels[chosen])


def read_splits(path: Path) -> NDArray[np.str_] | None:
    """Read the array `split` of a npz file, and no other.

    Args:
        path: the file.

    Returns:
        Words, (S,), or None where there is no such array of words.

    Raises:
        ValueError: not a zip file, or a zip bomb.
    """
    with zipfile.ZipFile(path) as archive:
        if "split.npy" not in archive.namelist():
            return None
        labels = read_member(archive, "split", most_unpacked(path.stat().st_size))
    return labels if labels.ndim == 1 and labels.dtype.kind == "U" else None


def as_stack(array: NDArray[Any]) -> CloudArray:
    """See that an array holds clouds.

    Args:
        array: (N, D) or (S, N, D), of integers or floats, with D from 2 to 16. The organised cloud of a depth camera,
            (H, W, 3), looks like H clouds, and is taken for them: reshape it to (H * W, 3). Masked values become NaN.

    Returns:
        The same numbers, (S, N, D).

    Raises:
        ValueError: another shape or type.

    Examples:
        >>> as_stack(np.zeros((5, 2))).points.shape
        (1, 5, 2)
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype} instead of real numbers")
    if array.ndim not in (2, 3) or array.shape[-1] < 2 or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape}{_advice(array.shape)}")
    if array.shape[-1] > _MOST_DIMENSIONS:
        found = f"an array of shape {array.shape}, points of {array.shape[-1]} coordinates"
        raise ValueError(f"{found}: if it is a depth image, make points of it by pcf.data.depth_to_points")
    if isinstance(array, np.ma.MaskedArray):
        array = _unmasked(array)
    return CloudArray(array if array.ndim == 3 else array[None])


def as_table(array: NDArray[Any]) -> PointTable:
    """Take an array with named fields for a table.

    Args:
        array: of any shape; an organised one, (H, W), gives its points row by row. A field of several values becomes
            several columns: x, y and z where its name says positions, r, g and b or nx, ny and nz likewise, and else
            `name:0`, `name:1` and so on.

    Returns:
        Columns in the file's order and types.

    Raises:
        ValueError: no points, or too many columns.

    Examples:
        >>> points = np.zeros(2, [("xyz", "<f4", (3,)), ("label", "u1")])
        >>> list(as_table(points).columns)
        ['x', 'y', 'z', 'label']
    """
    if array.size == 0:
        raise ValueError(f"an array of shape {array.shape}: no points")
    flat = array.reshape(-1)
    columns: list[tuple[str, NDArray[Any]]] = []
    for name, values in _leaves(flat, ""):
        width = int(np.prod(values.shape[1:]))
        if len(columns) + width > _MOST_COLUMNS:
            raise ValueError(f"more than {_MOST_COLUMNS} columns")
        if values.ndim == 1:
            columns.append((name, _as_column(values)))
        else:
            parts = values.reshape(len(values), width)
            columns += [(own, _as_column(parts[:, k])) for k, own in enumerate(_spread(name, width))]
    if not columns:
        raise ValueError("an array whose fields hold nothing")
    return PointTable(
        dict(zip(unique_names(name for name, _ in columns), (values for _, values in columns), strict=True))
    )


def _advice(shape: tuple[int, ...]) -> str:
    return ": reshape it to (N, D) or (S, N, D)" if len(shape) > 3 and 2 <= shape[-1] <= _MOST_DIMENSIONS else ""


def _check_readable(dtype: np.dtype[Any]) -> None:
    """Types of no size make endless arrays of nothing."""
    if dtype.itemsize == 0:
        raise ValueError(f"an array of {dtype} instead of real numbers")


def _leaves(array: NDArray[Any], prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Fields, those of nested ones by their own names."""
    for name in array.dtype.names or ():
        values = array[name]
        if values.dtype.names is not None:
            yield from _leaves(values, name)
        elif values.dtype.kind in "fiubUS":
            yield name, _unmasked(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        else:
            of = f"{prefix}.{name}" if prefix else name
            raise ValueError(f"field {of[:40]!a} is of {values.dtype}, neither numbers nor words")


def _unmasked(array: np.ma.MaskedArray[Any, Any]) -> NDArray[Any]:
    """Values as they are, NaN where they are masked."""
    if array.dtype.kind not in "fiu" or not np.ma.is_masked(array):
        return np.asarray(array.data)
    floats = array if array.dtype.kind == "f" else array.astype(np.float64)
    return np.asarray(np.ma.filled(floats, np.nan))


def _as_column(values: NDArray[Any]) -> NDArray[Any]:
    return np.char.decode(values, "latin-1") if values.dtype.kind == "S" else values


def _spread(name: str, width: int) -> list[str]:
    lower = name.lower()
    if lower in _POSITIONS and width in (2, 3):
        return list("xyz"[:width])
    if lower in _COLOURS and width in (3, 4):
        return list("rgba"[:width])
    if lower in _NORMALS and width == 3:
        return ["nx", "ny", "nz"]
    return [f"{name}:{k}" for k in range(width)]


def _find_points(archive: zipfile.ZipFile, limit: int) -> tuple[str | None, list[PointTable]]:
    """The array of points of a file by its name; or the tables that its arrays are."""
    names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
    if "points" in names or not names:
        return "points", []
    headers = {name: _header(archive, name) for name in names}
    lengths = {header.shape[0] for name, header in headers.items() if name.lower() in "xyz" and len(header.shape) == 1}
    if {"x", "y"} <= {name.lower() for name in names} and len(lengths) == 1:
        return None, [_table_of_arrays(archive, headers, lengths.pop(), limit)]
    candidates = [
        name for name, header in headers.items() if not _NO_POINTS.search(name) and _looks_like_points(header)
    ]
    if len(candidates) == 1:
        return candidates[0], []
    shapes = {name: headers[name].shape for name in candidates}
    if not candidates or {len(shape) for shape in shapes.values()} != {2} or len({s[1] for s in shapes.values()}) > 1:
        raise ValueError(f"no array `points`, only {enumerate_words(names)}")
    if any(shape[1] > 3 or headers[name].dtype.names for name, shape in shapes.items()):
        raise ValueError(f"no array `points`, only {enumerate_words(names)}")
    if sum(_bytes(headers[name]) for name in candidates) > limit:
        raise ValueError("its arrays would unpack to far more than the file's size")
    tables = []
    for name in candidates:
        points = as_stack(read_member(archive, name, limit)).points[0]
        tables.append(PointTable(dict(zip("xyz", points.T, strict=False)), name=name))
    return None, tables


def _header(archive: zipfile.ZipFile, name: str) -> NpyHeader:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        return read_npy_header(stream, info.file_size)


def _bytes(header: NpyHeader) -> int:
    size = header.dtype.itemsize
    for length in header.shape:
        size *= length
    return size


def _looks_like_points(header: NpyHeader) -> bool:
    shape = header.shape
    if header.dtype.names is not None:
        return bool(shape) and 0 not in shape
    if header.dtype.kind not in "fiu" or len(shape) not in (2, 3) or 0 in shape:
        return False
    # Square ones of three or four are matrices, of cameras and poses.
    return 2 <= shape[-1] <= _MOST_DIMENSIONS and shape[-2:] not in ((3, 3), (4, 4), (3, 4))


def _table_of_arrays(archive: zipfile.ZipFile, headers: dict[str, NpyHeader], length: int, limit: int) -> PointTable:
    own = {
        name: header for name, header in headers.items() if header.shape == (length,) and header.dtype.kind in "fiubUS"
    }
    if not length:
        raise ValueError("arrays of coordinates without points")
    if len(own) > _MOST_COLUMNS or sum(map(_bytes, own.values())) > limit:
        raise ValueError("its arrays would unpack to far more than the file's size")
    return PointTable({name: _as_column(read_member(archive, name, limit)) for name in own})


def _read_labels(archive: zipfile.ZipFile, count: int, limit: int) -> NDArray[np.generic] | None:
    """The array `labels` (S,), or None where there is none, or it is of something else, as the points."""
    if "labels.npy" not in archive.namelist():
        return None
    header = _header(archive, "labels")
    if header.shape != (count,) or header.dtype.kind not in "iuUS":
        return None
    return _as_column(read_member(archive, "labels", limit))
