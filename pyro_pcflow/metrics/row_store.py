"""Finished rows of a distance matrix on disk, under a hash of what they depend on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.ops.array_files import read_array
from pyro_pcflow.ops.files import atomic_file, write_npy
from pyro_pcflow.ops.hashing import array_sha256, sha256_of
from pyro_pcflow.ops.reading import phrase, printable, read_small_text

__all__ = ["RowStore", "fingerprint"]

# Raised whenever a distance is computed differently, so that old rows are not mixed with new ones.
VERSION = 3
MOST_BYTES = 1 << 16


def fingerprint(identity: Sequence[Any], x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, mirrored: bool) -> str:
    """A hash of everything that a matrix of distances depends on, 64 hexadecimal digits.

    Args:
        identity: of the distance and its options, plain values.
        x: (S, N, D).
        x_mask: (S, N) boolean.
        y: (R, M, D).
        y_mask: (R, M) boolean.
        mirrored: whether only the upper half is computed.
    """
    head = [VERSION, *identity, mirrored, x.device.type]
    return sha256_of(json.dumps([*head, *map(array_sha256, (x, x_mask, y, y_mask))]))


class RowStore:
    """A folder for the rows of one matrix.

    ==========================  ====================================================
    `matrix.json`               the whole hash, the distance and the shape
    `rows-000000-000032.npy`    rows 0 to 31, (32, R) float64
    ==========================  ====================================================

    Args:
        path: a folder for several matrices; made if it is missing.
        key: what `fingerprint` returns.
        distance: its name.
        shape: (S, R).

    Raises:
        ValueError: the folder holds something else.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     RowStore(folder, "0" * 64, "emd", (3, 2)).write(slice(1, 2), torch.ones(1, 2))
        ...     matrix = torch.zeros(3, 2, dtype=torch.float64)
        ...     RowStore(folder, "0" * 64, "emd", (3, 2)).read_into(matrix), matrix[1].tolist()
        ({1}, [1.0, 1.0])
    """

    def __init__(self, path: str | os.PathLike[str], key: str, distance: str, shape: tuple[int, int]) -> None:
        self.folder = Path(path) / f"{distance}-{key[:16]}"
        self.shape = shape
        if self.folder.parent.exists() and not self.folder.parent.is_dir():
            raise ValueError(f"path: expected a folder for finished rows, {printable(path)} is a file")
        self.folder.mkdir(parents=True, exist_ok=True)
        head = self.folder / "matrix.json"
        expected = {"sha256": key, "distance": distance, "shape": list(shape), "version": VERSION}
        if not head.exists():
            with atomic_file(head) as stream:
                stream.write(json.dumps(expected).encode())
        try:
            found = json.loads(read_small_text(head, MOST_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{printable(head)}: not readable as JSON ({phrase(error)}); delete {printable(self.folder)} to "
                "compute it anew"
            ) from error
        if found != expected:
            raise ValueError(
                f"{printable(head)}: describes another matrix, {str(found)[:200]}; delete {printable(self.folder)} or "
                "give another path"
            )

    def read_into(self, matrix: Tensor) -> set[int]:
        """Fill in the rows that are there.

        Args:
            matrix: (S, R) of float64, changed in place.

        Returns:
            Which rows they are.

        Raises:
            ValueError: a file of rows that cannot be read, or of another shape.
        """
        done: set[int] = set()
        for file in sorted(self.folder.glob("rows-*.npy")):
            try:
                start, stop = (int(number) for number in file.stem.split("-")[1:])
                rows = read_array(file)
            except (OSError, ValueError) as error:
                raise ValueError(f"{printable(file)}: not readable as rows; delete it to compute them anew") from error
            inside = 0 <= start < stop <= self.shape[0]
            if not inside or rows.shape != (stop - start, self.shape[1]) or rows.dtype != np.float64:
                raise ValueError(
                    f"{printable(file)}: holds {rows.dtype} of shape {rows.shape}; delete it to compute rows anew"
                )
            matrix[start:stop] = torch.from_numpy(rows)
            done.update(range(start, stop))
        return done

    def write(self, rows: slice, values: Tensor) -> None:
        """Keep some rows, (stop - start, R)."""
        file = self.folder / f"rows-{rows.start:06d}-{rows.stop:06d}.npy"
        with atomic_file(file) as stream:
            write_npy(stream, values.double().numpy())
