"""What is in files of points: columns, extents, duplicates, NaN rows, splits and categories."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.cli.data_options import folder_options_of, selection_of
from pyro_pcflow.cli.shared import Result, table
from pyro_pcflow.data.columns import choose_columns
from pyro_pcflow.data.drawing import Selection
from pyro_pcflow.data.formats import read_file
from pyro_pcflow.data.listing import Entry, list_entries
from pyro_pcflow.data.shapes import CloudArray, PointTable, Surface
from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.reading import phrase

__all__ = ["count_duplicates", "describe_data"]

# Rows of a table of text.
MOST_SHOWN = 20
# Values whose ranges are taken at a time, so that a file on disk stays there.
VALUES_AT_ONCE = 1 << 24
# Units that a format prescribes.
UNITS = {".glb": "metres", ".gltf": "metres", ".e57": "metres"}
AXES = ("x", "y", "z")


def describe_data(path: Path, arguments: argparse.Namespace) -> Result:
    """Describe a file of points, or a folder of them.

    Args:
        path: where it is.
        arguments: with the options of `add_data_options`.

    Raises:
        CloudError: what is there cannot be used.
        OSError: nothing to read there.
    """
    listing = list_entries(path, None, folder_options_of(arguments))
    selection = selection_of(arguments)
    sources: list[dict[str, Any]] = []
    is_folder = path.is_dir()
    with progress_bar(None if is_folder else False, "files", unit="file", total=len(listing.entries)) as bar:
        for entry in listing.entries:
            sources += _describe_file(entry, selection)
            bar.update()
    values = _summary(path, sources)
    values["splits"] = _counted(source["splits"] for source in sources)
    values["categories"] = _counted(source["labels"] for source in sources)
    values["passed_over"] = listing.passed_over
    values["files"] = len(listing.entries)
    values["contents"] = sources
    return Result(values, [*table(_rows(values)), *_lines(sources)])


def count_duplicates(points: NDArray[Any]) -> int:
    """How many rows are the same as an earlier one.

    Args:
        points: (N, D); rows with a NaN are no duplicates of others.

    Examples:
        >>> count_duplicates(np.array([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [2.0, 3.0], [2.0, 3.0]]))
        3
    """
    exact = points[np.isfinite(points).all(axis=1)] if points.dtype.kind == "f" else points
    # Sorting numbers is much faster than sorting rows; only rows of equal numbers can be equal.
    keys = np.zeros(len(exact), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in exact.T:
            # Zero has two signs.
            bits = (column.astype(np.float64) + 0.0).view(np.uint64)
            keys = (keys ^ bits) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    alike = np.zeros(len(exact), dtype=bool)
    alike[order[1:][same]] = alike[order[:-1][same]] = True
    return int(alike.sum() - len(np.unique(exact[alike], axis=0)))


def _describe_file(entry: Entry, selection: Selection) -> Iterator[dict[str, Any]]:
    """One description of each mesh, table or array in a file."""
    source = read_file(entry.path, None, entry.split)
    own: dict[str, Any] = {"file": entry.name, "format": entry.path.suffix.lower(), "bytes": entry.path.stat().st_size}
    own["units"] = UNITS.get(own["format"])
    if isinstance(source, Surface):
        used = source.vertices[np.unique(source.faces)]
        yield {
            **own,
            "kind": "mesh",
            "clouds": 1,
            "vertices": len(source.vertices),
            "faces": len(source.faces),
            "dimensions": 3,
            "extents": _extents(used),
            **_of_folder(entry, 1),
        }
        return
    if isinstance(source, CloudArray):
        splits = [] if source.splits is None else [*map(str, source.splits)]
        labels = [] if source.labels is None else [*map(str, source.labels)]
        of_folder = _of_folder(entry, len(source.points))
        of_file = {name: found for name, found in (("splits", splits), ("labels", labels)) if found}
        yield {**own, **_describe_array(source.points), **of_folder, **of_file}
        return
    for found in source:
        yield {**own, **_describe_table(found, selection), **_of_folder(entry, 1)}


def _of_folder(entry: Entry, count: int) -> dict[str, Any]:
    split, category = entry.split, entry.category
    return {"splits": [split] * count if split else [], "labels": [category] * count if category else []}


def _describe_table(found: PointTable, selection: Selection) -> dict[str, Any]:
    columns = [_describe_column(name, values) for name, values in found.columns.items()]
    values: dict[str, Any] = {"kind": "cloud", "clouds": 1, "points": len(found), "name": found.name}
    try:
        chosen = choose_columns(found, selection.columns, selection.features)
    except ValueError as error:
        values |= {"coordinates": None, "why": phrase(error), "nan_rows": _nan_rows(found)}
    else:
        values |= {"coordinates": [*chosen.names], "why": None, **_describe_points(chosen.points)}
    return {**values, "columns": columns}


def _describe_points(points: NDArray[Any]) -> dict[str, Any]:
    finite = np.isfinite(points).all(axis=1) if points.dtype.kind == "f" else np.ones(len(points), dtype=bool)
    return {
        "dimensions": points.shape[1],
        "type": points.dtype.name,
        "extents": _extents(points[finite]),
        "origin": _origin(points[finite]),
        "duplicates": count_duplicates(points),
        "nan_rows": int(len(points) - finite.sum()),
    }


def _describe_array(points: NDArray[Any]) -> dict[str, Any]:
    """Ranges of a whole array, some clouds at a time."""
    count, size, dim = points.shape
    step = max(1, VALUES_AT_ONCE // max(1, size * dim))
    low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
    duplicates = nan_rows = 0
    origin = None
    for start in range(0, count, step):
        some = np.asarray(points[start : start + step])
        finite = np.isfinite(some).all(axis=2) if some.dtype.kind == "f" else np.ones(some.shape[:2], dtype=bool)
        nan_rows += int(finite.size - finite.sum())
        kept = some[finite]
        if len(kept):
            low, high = np.minimum(low, kept.min(axis=0)), np.maximum(high, kept.max(axis=0))
        duplicates += sum(map(count_duplicates, some))
        origin = _origin(some[0][finite[0]]) if start == 0 else origin
    names = AXES[:dim] if dim <= len(AXES) else tuple(str(place) for place in range(1, dim + 1))
    extents = None if not np.isfinite(low).all() else [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    return {
        "kind": "array",
        "clouds": count,
        "points": size,
        "dimensions": dim,
        "type": points.dtype.name,
        "coordinates": [*names],
        "extents": extents,
        "origin": origin,
        "duplicates": duplicates,
        "nan_rows": nan_rows,
    }


def _describe_column(name: str, values: NDArray[Any]) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": "text" if values.dtype.kind in "US" else values.dtype.name}
    if values.dtype.kind == "f":
        kept = values[np.isfinite(values)]
        column["not_finite"] = int(values.size - kept.size)
    else:
        kept = values
    if values.dtype.kind in "fiub" and kept.size:
        low, high = kept.min(), kept.max()
        column |= {"min": low.item(), "max": high.item()}
    return column


def _nan_rows(found: PointTable) -> int:
    bad = np.zeros(len(found), dtype=bool)
    for values in found.columns.values():
        if values.dtype.kind == "f":
            bad |= ~np.isfinite(values)
    return int(bad.sum())


def _extents(points: NDArray[Any]) -> list[list[float]] | None:
    if not len(points):
        return None
    pairs = zip(points.min(axis=0).tolist(), points.max(axis=0).tolist(), strict=True)
    return [[float(low), float(high)] for low, high in pairs]


def _origin(points: NDArray[Any]) -> list[float] | None:
    """What a flow would subtract; nothing of points that float32 holds anyway."""
    if (points.dtype.kind == "f" and points.dtype.itemsize <= 4) or not len(points):
        return None
    exact = np.ascontiguousarray(points, dtype=np.float64)
    if (np.abs(exact).max() if exact.size else 0) == 0:
        return None
    import torch

    from pyro_pcflow.ops.origin import find_origin

    origin = find_origin(torch.from_numpy(exact))
    return None if origin is None else origin.tolist()


def _counted(words: Iterable[list[str]]) -> dict[str, int]:
    counts = Counter(word for some in words for word in some)
    return {word: counts[word] for word in sorted(counts)}


def _summary(path: Path, sources: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = [source["points"] for source in sources if "points" in source]
    dims = {source.get("dimensions") for source in sources}
    boxes = [source["extents"] for source in sources if source.get("extents")]
    extents = None
    if len(dims) == 1 and boxes:
        extents = [[min(low for low, _ in ends), max(high for _, high in ends)] for ends in zip(*boxes, strict=True)]
    units = {source["units"] for source in sources}
    return {
        "path": path,
        "kind": "folder" if path.is_dir() else sources[0]["kind"],
        "formats": _counted([source["format"]] for source in sources),
        "bytes": sum({source["file"]: source["bytes"] for source in sources}.values()),
        "clouds": sum(source["clouds"] for source in sources if source["kind"] != "mesh"),
        "meshes": sum(source["kind"] == "mesh" for source in sources),
        "points": sum(source["points"] * source["clouds"] for source in sources if "points" in source),
        "points_in_a_cloud": [min(sizes), max(sizes)] if sizes else None,
        "dimensions": dims.pop() if len(dims) == 1 else None,
        "extents": extents,
        "units": units.pop() if len(units) == 1 else None,
        "duplicates": sum(source.get("duplicates", 0) for source in sources),
        "nan_rows": sum(source.get("nan_rows", 0) for source in sources),
    }


def _rows(values: dict[str, Any]) -> list[list[str]]:
    """What is true of all of it, in words."""
    several = values["files"] > 1
    formats = ", ".join(f"{name} ({count:,})" if several else name for name, count in values["formats"].items())
    rows = [["what", f"{values['kind']}, {formats}, {_size(values['bytes'])}"]]
    if several:
        rows.append(["files", f"{values['files']:,}"])
    if values["meshes"]:
        rows.append(["meshes", f"{values['meshes']:,}"])
    if values["clouds"]:
        low, high = values["points_in_a_cloud"]
        of = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        rows.append(["clouds", f"{values['clouds']:,} of {of} points"])
    if values["extents"]:
        rows.append(["extents", " x ".join(f"{high - low:.6g}" for low, high in values["extents"])])
    rows.append(["units", values["units"] or "not said by the file" + "s" * several])
    if values["clouds"]:
        rows.append(["duplicates", f"{values['duplicates']:,} points lie where an earlier one of their cloud does"])
        rows.append(["NaN rows", f"{values['nan_rows']:,}"])
    for name in ("splits", "categories"):
        if values[name]:
            rows.append([name, ", ".join(f"{word} ({count:,})" for word, count in values[name].items())])
    if values["passed_over"]:
        rows.append(["passed over", f"{len(values['passed_over']):,} files of unknown endings"])
    return rows


def _size(count: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} bytes"


def _lines(sources: list[dict[str, Any]]) -> list[str]:
    """What is true of each part: columns of one, a row for each of several."""
    lines: list[str] = []
    if len(sources) > 1:
        rows = [["file", "clouds", "points", "duplicates", "NaN rows", "coordinates"]]
        for source in sources[:MOST_SHOWN]:
            name = source["file"] if source.get("name") is None else f"{source['file']}, {source['name']}"
            points = source.get("points", source.get("faces"))
            what = f"{points:,}" + " faces" * (source["kind"] == "mesh")
            where = source.get("coordinates")
            found = [name, f"{source['clouds']:,}", what]
            found += [f"{source[key]:,}" if key in source else "" for key in ("duplicates", "nan_rows")]
            rows.append([*found, source["why"] if source.get("why") else " ".join(where or ())])
        lines += ["", *table(rows)]
        if len(sources) > MOST_SHOWN:
            lines.append(f"and {len(sources) - MOST_SHOWN:,} more; --json lists all")
        return lines
    (source,) = sources
    if source["kind"] == "mesh":
        return [*table([["corners", f"{source['vertices']:,}"], ["faces", f"{source['faces']:,}"]])]
    if source.get("origin"):
        numbers = ", ".join(f"{value:.12g}" for value in source["origin"])
        lines.append(f"origin      ({numbers}), which a flow subtracts")
    if source.get("why"):
        lines.append(f"no coordinates yet: {source['why']}")
    columns = source.get("columns") or _columns_of_array(source)
    chosen = set(source["coordinates"] or ())
    rows = [["column", "type", "least", "largest", ""]]
    for column in columns[:MOST_SHOWN]:
        ends = [f"{column[end]:.12g}" if end in column else "" for end in ("min", "max")]
        what = ["coordinate"] * (column["name"] in chosen)
        what += [f"{column.get('not_finite', 0):,} NaN or infinite"] * bool(column.get("not_finite"))
        rows.append([column["name"], column["type"], *ends, ", ".join(what)])
    return [*lines, "", *table(rows)]


def _columns_of_array(source: dict[str, Any]) -> list[dict[str, Any]]:
    boxes = source["extents"] or [[]] * source["dimensions"]
    return [
        {"name": name, "type": source["type"], **dict(zip(("min", "max"), box, strict=False))}
        for name, box in zip(source["coordinates"], boxes, strict=True)
    ]
