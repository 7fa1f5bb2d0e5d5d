"""HDF5, as data sets of clouds are shipped in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.extras import require
from pyro_pcflow.data.shapes import CloudArray, PointTable
from pyro_pcflow.ops.array_files import most_unpacked
from pyro_pcflow.ops.reading import phrase, shortened

__all__ = ["read_hdf5"]

# The first of these names that is there is the clouds.
_CLOUDS = ("points", "xyz", "data", "pos", "pcd")
_LABELS = ("label", "labels")
# What belongs to clouds and is none itself.
_BESIDE = {"normal", "normals", "faceid", "pid", "mask", "seg", "color", "colors", "colour", "colours", "rgb", "index"}
_SPLITS = ("train", "val", "test")
_MOST_OBJECTS, _MOST_DEPTH = 100_000, 16
# An array with so few rows, and so many columns, has its coordinates one below the other.
_FEW_ROWS, _MANY_COLUMNS = 9, 32
_SAFE_CHUNK = 1 << 26
_DEFLATE, _MOST_DEFLATED = 1, 1032
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


@dataclass(frozen=True)
class _Found:
    path: str
    dataset: Any

    @property
    def parts(self) -> list[str]:
        return self.path.split("/")

    @property
    def name(self) -> str:
        return self.parts[-1].lower()

    def __str__(self) -> str:
        return f"{shortened(self.path)} {self.dataset.dtype} {self.dataset.shape}"


def read_hdf5(path: Path, split: str | None = None) -> CloudArray | list[PointTable]:
    """Read the clouds of an HDF5 file.

    They are its only array (N, D) or (S, N, D) that is called points, xyz, data, pos or pcd; or else its only one of
    such a shape. Arrays called `train`, `val` and `test`, or in groups of these names, belong together; names of
    further groups are classes then. `label` (S,) or (S, 1) beside the clouds is their classes too. All else, such as
    normals, is left out. Without such arrays, a data set of named fields is a table, and so are one-dimensional data
    sets x, y, z in a group.

    Args:
        path: the file.
        split: keep only the clouds of this split, where the file says splits.

    Returns:
        The clouds; or tables of points.

    Raises:
        ValueError: damaged, several arrays that could be meant, none, or h5py is not installed.
    """
    h5py = require("h5py", "hdf5", "HDF5 files are")
    limit = most_unpacked(path.stat().st_size)
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = list(_walk(file, h5py))
            return _read(found, split, limit, h5py)
    except ValueError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"damaged: {phrase(error)}") from error


def _walk(file: Any, h5py: Any) -> Iterator[_Found]:
    seen = set()
    groups = [("", file)]
    number = 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            number += 1
            path = f"{prefix}/{name}" if prefix else name
            if number > _MOST_OBJECTS or path.count("/") > _MOST_DEPTH:
                raise ValueError("too many groups and data sets, or too deep ones")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{shortened(path)} lies in another file; copy it into this one")
            if isinstance(link, h5py.SoftLink):  # another name of something that has its own
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append((path, item))
            elif isinstance(item, h5py.Dataset):
                yield _Found(path, item)


def _read(found: list[_Found], split: str | None, limit: int, h5py: Any) -> CloudArray | list[PointTable]:
    arrays = [item for item in found if _is_clouds(item)]
    named = [item for item in arrays if item.name in _CLOUDS]
    others = [item for item in arrays if item.name not in (*_BESIDE, *_LABELS)]
    for chosen in (named, others):
        if len(chosen) == 1 and _split_of(chosen[0]) is None:
            if split is not None:
                raise ValueError(f"it says no splits, and split {split!r} was asked for")
            return _read_one(chosen[0], found, limit, h5py)
        if chosen and all(_split_of(item) for item in chosen):
            return _read_splits(chosen, found, split, limit, h5py)
        if chosen:
            raise ValueError(f"several arrays that could be clouds, {_list(chosen)}: keep one of them")
    if split is not None:
        raise ValueError(f"it says no splits, and split {split!r} was asked for")
    return _read_tables(found, limit, h5py)


def _list(found: list[_Found]) -> str:
    return ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "") or "nothing"


def _is_clouds(item: _Found) -> bool:
    shape = item.dataset.shape
    dtype = item.dataset.dtype
    return dtype.kind in "fiu" and dtype.itemsize <= 8 and shape is not None and len(shape) in (2, 3) and shape[-1] > 1


def _split_of(item: _Found) -> str | None:
    words = [part for part in item.parts if part in _SPLITS]
    return words[0] if len(words) == 1 else None


def _read_one(item: _Found, found: list[_Found], limit: int, h5py: Any) -> CloudArray:
    _check_layout(item)
    points = _read_values(item, limit, h5py)
    labels = _labels_of(item, found, limit - points.nbytes, h5py)
    return CloudArray(points if points.ndim == 3 else points[None], labels=labels)


def _check_layout(item: _Found) -> None:
    shape = item.dataset.shape
    if 0 in shape:
        raise ValueError(f"{item} is empty")
    if shape[-2] <= _FEW_ROWS and shape[-1] > _MANY_COLUMNS:
        raise ValueError(f"{item} seems to have its coordinates in rows: transpose it to (S, N, D)")


def _labels_of(item: _Found, found: list[_Found], limit: int, h5py: Any) -> NDArray[Any] | None:
    beside = [other for other in found if other.parts[:-1] == item.parts[:-1] and other.name in _LABELS]
    if not beside:
        return None
    if len(beside) > 1:
        raise ValueError(f"several arrays that could be labels, {_list(beside)}")
    count = item.dataset.shape[0] if len(item.dataset.shape) == 3 else 1
    shape = beside[0].dataset.shape
    if shape not in ((count,), (count, 1)):
        # One for each point, as in part segmentation, is no class of a cloud.
        if shape in (item.dataset.shape[:-1], (*item.dataset.shape[:-1], 1)):
            return None
        raise ValueError(f"{beside[0]} is no label for each of {count} clouds")
    labels = _read_values(beside[0], limit, h5py).reshape(count)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "f":
        if not (labels == np.floor(labels)).all() or not (np.abs(labels) < 2**53).all():
            raise ValueError(f"{beside[0]} holds labels that are no whole numbers")
        return labels.astype(np.int64)
    return labels


def _read_splits(chosen: list[_Found], found: list[_Found], split: str | None, limit: int, h5py: Any) -> CloudArray:
    if split is not None:
        there = sorted({str(_split_of(item)) for item in chosen})
        chosen = [item for item in chosen if _split_of(item) == split]
        if not chosen:
            raise ValueError(f"no clouds of split {split!r}, only of {', '.join(there)}")
    # Words of their paths that are neither the split nor their own name are a class.
    names = {item.parts[-1] for item in chosen} - set(_SPLITS)
    classes = ["/".join(part for part in item.parts if part not in (_split_of(item), *names)) for item in chosen]
    splits = [str(_split_of(item)) for item in chosen]
    if len(set(zip(splits, classes, strict=True))) != len(chosen) or len(names) > 1:
        raise ValueError(f"several arrays that could be clouds, {_list(chosen)}: keep one of each split")
    if len({item.dataset.shape[1:] if len(item.dataset.shape) == 3 else None for item in chosen}) != 1:
        raise ValueError(f"arrays of different shapes, {_list(chosen)}: keep those of one shape")
    if len(chosen[0].dataset.shape) != 3 or len({item.dataset.dtype for item in chosen}) != 1:
        raise ValueError(f"arrays that are no clouds of one kind, {_list(chosen)}")
    points, labels = [], []
    for item in chosen:
        part = _read_one(item, found, limit, h5py)
        limit -= part.points.nbytes
        points.append(part.points)
        labels.append(part.labels)
    counts = [len(part) for part in points]
    of_clouds = np.repeat(np.array(splits), counts)
    return CloudArray(np.concatenate(points), of_clouds, _join_labels(labels, classes, counts))


def _join_labels(labels: list[NDArray[Any] | None], classes: list[str], counts: list[int]) -> NDArray[Any] | None:
    given = [part for part in labels if part is not None]
    if given and len(given) < len(labels):
        raise ValueError("labels in some of its groups and not in others")
    if given:
        return np.concatenate(given)
    return np.repeat(np.array(classes), counts) if len(set(classes)) > 1 else None


def _read_tables(found: list[_Found], limit: int, h5py: Any) -> list[PointTable]:
    compound = [item for item in found if item.dataset.dtype.names and len(item.dataset.shape or ()) == 1]
    if compound:
        if len({item.dataset.dtype for item in compound}) != 1:
            raise ValueError(f"several data sets of different fields, {_list(compound)}: keep one of them")
        tables = []
        for item in compound:
            rows = _read_values(item, limit, h5py)
            limit -= rows.nbytes
            tables.append(PointTable(_fields(rows), name=item.path))
        return tables
    parents = {"/".join(item.parts[:-1]) for item in found if item.name == "x"}
    tables = []
    for parent in sorted(parents):
        beside = [item for item in found if "/".join(item.parts[:-1]) == parent]
        lengths = {item.name: item.dataset.shape for item in beside}
        length = lengths["x"]
        if not (len(length) == 1 and length[0] and lengths.get("y") == lengths.get("z") == length):
            continue
        columns = {}
        for item in beside:
            if item.dataset.shape == length and item.dataset.dtype.kind in "fiu":
                columns[item.parts[-1]] = _read_values(item, limit, h5py)
                limit -= columns[item.parts[-1]].nbytes
        tables.append(PointTable(columns, name=parent or None))
    if not tables:
        raise ValueError(f"no array (N, D) or (S, N, D) of real numbers, only {_list(found)}")
    return tables


def _fields(rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if not len(rows):
        raise ValueError("a data set without rows")
    columns: dict[str, NDArray[Any]] = {}
    for name in rows.dtype.names or ():
        values = _native(rows[name])
        if values.dtype.kind not in "fiuSU" or values.ndim > 2:
            raise ValueError(f"field {shortened(name)} holds {values.dtype} {values.shape[1:]}, no numbers")
        parts = [(name, values)]
        if values.ndim == 2:
            parts = [(f"{name}_{index}", values[:, index]) for index in range(values.shape[1])]
        for key, part in parts:
            if key in columns:
                raise ValueError(f"two columns of the name {shortened(key)}")
            columns[key] = np.char.decode(part, "utf-8") if part.dtype.kind == "S" else np.ascontiguousarray(part)
    return columns


def _read_values(item: _Found, limit: int, h5py: Any) -> NDArray[Any]:
    dataset = item.dataset
    if dataset.dtype.hasobject:
        raise ValueError(f"{item} holds values of variable length, which are not read")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{item} lies in other files; copy it into this one")
    size = prod(dataset.shape) * dataset.dtype.itemsize
    if size > limit:
        raise ValueError(f"{item} would have {size} bytes, from a far smaller file")
    _check_storage(item, size, h5py)
    return _native(dataset[...])


def _check_storage(item: _Found, size: int, h5py: Any) -> None:
    dataset = item.dataset
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if unknown := [number for number in filters if number not in _FILTERS]:
        raise ValueError(f"{item} is packed by a filter with the number {unknown[0]}; repack it with gzip")
    if dataset.chunks is None:
        # What was never written would be zeros.
        if dataset.id.get_storage_size() < size:
            raise ValueError(f"{item} has {size} bytes, of which {dataset.id.get_storage_size()} are stored")
        return
    needed = prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if needed > dataset.id.get_num_chunks():
        raise ValueError(f"{item} has {needed} chunks, of which {dataset.id.get_num_chunks()} are stored")
    whole = prod(dataset.chunks) * dataset.dtype.itemsize
    if whole > max(_SAFE_CHUNK, 2 * size):
        raise ValueError(f"{item} has chunks of {whole} bytes, more than it has itself")
    if filters:
        _check_chunks(dataset, filters, whole)


def _check_chunks(dataset: Any, filters: list[int], whole: int) -> None:
    # Its library unpacks a chunk of any size before it looks at it.
    for index in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(index)
        if chunk.size > 2 * whole + 1024:
            raise ValueError(f"a chunk of {chunk.size} bytes that should unpack to {whole}")
        if _DEFLATE not in filters or chunk.size * _MOST_DEFLATED <= max(_SAFE_CHUNK, 2 * whole):
            continue
        if filters[-1] != _DEFLATE:
            raise ValueError("large chunks that were packed more than once; repack them with gzip")
        if not chunk.filter_mask:
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            if len(zlib.decompressobj().decompress(packed, 2 * whole + 1025)) > 2 * whole + 1024:
                raise ValueError(f"a chunk that unpacks to far more than {whole} bytes")


def _native(values: NDArray[Any]) -> NDArray[Any]:
    # On disk they may be of another byte order, and nothing else changes.
    return values.astype(values.dtype.newbyteorder("="), copy=False)
