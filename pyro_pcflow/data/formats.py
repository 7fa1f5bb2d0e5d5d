"""The reader of each file format; a parser's error becomes a CloudError here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyro_pcflow.data.errors import cloud_error
from pyro_pcflow.data.readers.arrays import read_npy, read_npz, read_splits
from pyro_pcflow.data.readers.e57 import read_e57
from pyro_pcflow.data.readers.glb import read_glb
from pyro_pcflow.data.readers.hdf5 import read_hdf5
from pyro_pcflow.data.readers.kitti import read_kitti
from pyro_pcflow.data.readers.las import read_las
from pyro_pcflow.data.readers.obj import read_obj
from pyro_pcflow.data.readers.off import read_off
from pyro_pcflow.data.readers.pcd import read_pcd
from pyro_pcflow.data.readers.ply import read_ply
from pyro_pcflow.data.readers.ptx import read_ptx
from pyro_pcflow.data.readers.stl import read_stl
from pyro_pcflow.data.readers.text import read_text
from pyro_pcflow.data.sampling import has_area
from pyro_pcflow.data.shapes import Shape, Surface
from pyro_pcflow.ops.reading import check_regular, phrase

__all__ = ["EXTENSIONS", "read_file", "stored_splits"]

_MESH = "expected a whole {} with faces, or with points and no faces"
_TABLE = "expected lines of at least two numbers each, the same count on every line"
_ARRAY = "expected a whole, unpickled array of real numbers, (N, D) or (S, N, D) with D >= 2"
_SCAN = "expected a whole {} with points"
_TEXT_ENDINGS = (".xyz", ".txt", ".csv", ".tsv", ".asc", ".pts", ".dat", ".xyzn", ".xyzrgb")

_EXPECTED = {
    ".obj": _MESH.format("Wavefront OBJ file"),
    ".off": _MESH.format("OFF file"),
    ".ply": _MESH.format("PLY file"),
    ".stl": _MESH.format("binary or text STL file"),
    ".glb": _MESH.format("GLB file"),
    ".gltf": _MESH.format("glTF file"),
    **dict.fromkeys(_TEXT_ENDINGS, _TABLE),
    ".ptx": _SCAN.format("PTX file"),
    ".pcd": _SCAN.format("PCD file"),
    ".las": _SCAN.format("LAS file"),
    ".laz": _SCAN.format("LAZ file"),
    ".e57": _SCAN.format("E57 file"),
    ".bin": "expected float32 numbers of KITTI: x, y, z and intensity of each point",
    ".h5": "expected clouds (S, N, D) or (N, D) in a whole HDF5 file",
    ".hdf5": "expected clouds (S, N, D) or (N, D) in a whole HDF5 file",
    ".npy": _ARRAY,
    ".npz": f"{_ARRAY}, named `points`, or the only one",
}
_READERS: dict[str, Callable[[Path], Shape]] = {
    ".obj": read_obj,
    ".off": read_off,
    ".ply": read_ply,
    ".stl": read_stl,
    ".glb": read_glb,
    ".gltf": read_glb,
    **dict.fromkeys(_TEXT_ENDINGS, read_text),
    ".ptx": read_ptx,
    ".pcd": read_pcd,
    ".las": read_las,
    ".laz": read_las,
    ".e57": read_e57,
    ".bin": read_kitti,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".npy": read_npy,
}
EXTENSIONS = tuple(_EXPECTED)


def read_file(path: Path, split: str | None = None, folder_split: str | None = None) -> Shape:
    """Read one file of any known format.

    Args:
        path: the file.
        split: which clouds of a npz file to keep; `None` keeps all.
        folder_split: the split of all clouds of a npz file that says nothing itself.

    Returns:
        A surface with area, finite; or clouds, whose values are checked when points are drawn.

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
            if path.stat().st_size == 0:
                raise ValueError("the file is empty")
            source = read_npz(path, split, folder_split) if kind == ".npz" else _READERS[kind](path)
    except Exception as error:  # parsers of damaged files raise anything
        raise cloud_error(path, f"can't be read ({phrase(error)})", _EXPECTED[kind]) from error
    if isinstance(source, Surface):
        _check_vertices(path, source)
        if not has_area(source):
            raise cloud_error(path, "its faces have no area", "expected a surface to draw points from")
    return source


def _check_vertices(path: Path, surface: Surface) -> None:
    """A surface through a corner that is nowhere has no points to draw."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(surface.vertices.astype(np.float32)).all(axis=1)
    if not finite.all():
        found = f"{np.count_nonzero(~finite)} of {finite.size} corners are NaN, infinite or beyond float32"
        raise cloud_error(path, found, "mend the mesh")


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
