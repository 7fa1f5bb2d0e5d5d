"""The reader of each file format; a parser's error becomes a CloudError here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyro_pcflow.data.arrays import read_npy, read_npz, read_splits, read_text
from pyro_pcflow.data.errors import cloud_error
from pyro_pcflow.data.meshes import read_mesh
from pyro_pcflow.data.sampling import CloudArray, Surface, has_area
from pyro_pcflow.ops.reading import check_regular, phrase

_MESH = "expected a whole {} with faces, or with points and no faces"
_TABLE = "expected lines of at least two numbers each, the same count on every line"
_ARRAY = "expected a whole, unpickled array of real numbers, (N, D) or (S, N, D) with D >= 2"

_EXPECTED = {
    ".obj": _MESH.format("Wavefront OBJ file"),
    ".off": _MESH.format("OFF file"),
    ".ply": _MESH.format("PLY file (if binary, its faces all with equally many corners)"),
    ".stl": _MESH.format("binary or text STL file"),
    ".glb": _MESH.format("and self-contained GLB file"),
    ".xyz": _TABLE,
    ".txt": _TABLE,
    ".csv": _TABLE,
    ".npy": _ARRAY,
    ".npz": f"{_ARRAY}, named `points`",
}
_READERS: dict[str, Callable[[Path], Surface | CloudArray]] = {
    **dict.fromkeys([".obj", ".off", ".ply", ".stl", ".glb"], read_mesh),
    **dict.fromkeys([".xyz", ".txt", ".csv"], read_text),
    ".npy": read_npy,
}
EXTENSIONS = tuple(_EXPECTED)


def read_file(path: Path, split: str | None = None, folder_split: str | None = None) -> Surface | CloudArray:
    """Read one file of any known format.

    Args:
        path: the file.
        split: which clouds of a npz file to keep; `None` keeps all.
        folder_split: the split of all clouds of a npz file that says nothing itself.

    Returns:
        A surface with area, or a stack of clouds. Surfaces are finite; stacks are checked as they
        are read from disk.

    Raises:
        CloudError: the file cannot be used.
    """
    kind = path.suffix.lower()
    if kind not in _EXPECTED:
        raise cloud_error(path, f"unknown ending '{path.suffix}'", f"known are {', '.join(EXTENSIONS)}")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            # Older numpy stops at the first word that is no number, warns, and returns what it has.
            warnings.filterwarnings("error", message="string or file could not be read")
            check_regular(path)
            source = read_npz(path, split, folder_split) if kind == ".npz" else _READERS[kind](path)
    except Exception as error:  # parsers of damaged files raise anything
        raise cloud_error(path, f"can't be read ({phrase(error)})", _EXPECTED[kind]) from error
    if isinstance(source, Surface):
        as_points(path, source.vertices)
        if not has_area(source):
            raise cloud_error(path, "its faces have no area", "expected a surface to draw points from")
    return source


def stored_splits(path: Path) -> tuple[str, ...]:
    """The splits that the clouds of a file say they belong to, sorted.

    Args:
        path: a file of any known format.

    Returns:
        The words of the array `split` of a npz file; none for other files.

    Raises:
        CloudError: the file cannot be used.
    """
    if path.suffix.lower() != ".npz":
        return ()
    try:
        check_regular(path)
        labels = read_splits(path)
    except Exception as error:  # as above
        raise cloud_error(path, f"can't be read ({phrase(error)})", _EXPECTED[".npz"]) from error
    return () if labels is None else tuple(sorted({str(label) for label in labels}))


def as_points(path: Path, points: np.ndarray) -> np.ndarray:
    """Convert coordinates to float32, and see that they survive it.

    Args:
        path: the file that they come from.
        points: (N, D), of any real type.

    Returns:
        (N, D) float32.

    Raises:
        CloudError: NaN, infinite, or beyond the range of float32.

    Examples:
        >>> as_points(Path("a"), np.array([[0.0, np.nan]]))
        Traceback (most recent call last):
        pyro_pcflow.data.errors.CloudError: a: 1 of 1 points are NaN, infinite or beyond float32; remove them
    """
    with np.errstate(all="ignore"):
        cast = np.asarray(points, dtype=np.float32)
    finite = np.isfinite(cast).all(axis=1)
    if not finite.all():
        found = f"{np.count_nonzero(~finite)} of {finite.size} points are NaN, infinite or beyond float32"
        raise cloud_error(path, found, "remove them")
    return cast
