"""Matrices of distances between all clouds of two sets, in bounded memory, and resumable."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.metrics.approximate import approximate_emd
from pyro_pcflow.metrics.matching import emd, matched_emd
from pyro_pcflow.metrics.nearest_neighbours import CHAMFER_CONVENTIONS, HAUSDORFF, chamfer, hausdorff
from pyro_pcflow.metrics.nearest_rows import NearestRows, find_invalid
from pyro_pcflow.metrics.pairs import check_choice, check_cloud, check_mask, pair_clouds
from pyro_pcflow.metrics.row_store import MatrixStore, fingerprint
from pyro_pcflow.metrics.transport import sinkhorn
from pyro_pcflow.ops.progress import progress_bar

__all__ = ["DISTANCES", "pairwise"]


@dataclass(frozen=True)
class Distance:
    """A distance that `pairwise` knows.

    Args:
        function: takes two clouds, its options and two masks.
        symmetric: exactly, and zero between a cloud and itself, so that half of the work is enough.
        matrices: matrices of N x M in the dtype of the clouds that one pair needs at a time.
        matching: needs clouds of one number of points.
    """

    function: Callable[..., Tensor]
    symmetric: bool
    matrices: int
    matching: bool = False

    def options(self, given: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The options with their defaults.

        Raises:
            ValueError: an option that the distance does not have, or one that it needs and that is missing.
        """
        known = {
            key: parameter.default
            for key, parameter in inspect.signature(self.function).parameters.items()
            if key not in ("x", "y", "x_mask", "y_mask")
        }
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"options: {name!r} has no option {unknown[0]!r}, its options are {sorted(known)}")
        options = known | dict(given)
        if missing := [key for key, value in options.items() if value is inspect.Parameter.empty]:
            raise ValueError(f"options: {name!r} needs a value for {missing[0]!r}")
        return options


DISTANCES = {
    "chamfer": Distance(chamfer, symmetric=True, matrices=6),
    "hausdorff": Distance(hausdorff, symmetric=True, matrices=6),
    "emd": Distance(emd, symmetric=True, matrices=2, matching=True),
    "approximate_emd": Distance(approximate_emd, symmetric=False, matrices=6, matching=True),
    "sinkhorn": Distance(sinkhorn, symmetric=False, matrices=6),
}
# Rows between two writes: trees are built anew for each block, and a row of an exact matching may take minutes.
_ROWS_OF_TREES = 32


def pairwise(
    x: Tensor,
    y: Tensor | None = None,
    distance: str = "chamfer",
    *,
    options: Mapping[str, Any] | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    max_memory_mb: float = 512.0,
    num_threads: int | None = None,
    progress: bool | None = False,
    path: str | os.PathLike[str] | None = None,
) -> Tensor:
    """The distances between all clouds of two sets, or between all clouds of one set.

    With y, row i and column j hold `distance(x[i], y[j])`. Without y they hold `distance(x[i], x[j])`; Chamfer,
    Hausdorff and exact EMD are symmetric, so that only half is computed and the diagonal is zero; of the others, which
    are not symmetric, every entry is computed, the diagonal too.

    Chamfer and Hausdorff distances on a CPU come from k-d trees in float64, whatever the dtype of the clouds. No
    gradients are recorded.

    Memory: what is needed beside the clouds and the matrix stays below `max_memory_mb`.

    Resuming: with `path`, rows are kept as they are finished, in a folder of their own under `path`, which is named
    after the distance and a hash of clouds, masks, distance and options. The same call continues from there, or reads
    the whole matrix if it was finished; a call with anything else has another folder, and never finds these rows.
    Several matrices may share one `path`. Files are written under another name and then renamed: none is half-written.

    Args:
        x: (S, N, D) of float32 or float64.
        y: (R, M, D), or None for the distances within x.
        distance: `"chamfer"`, `"hausdorff"`, `"emd"`, `"approximate_emd"` or `"sinkhorn"`.
        options: arguments of that distance by name, such as `{"convention": "distance_mean"}` or `{"epsilon": 0.01}`.
        x_mask: (S, N) boolean, true where a point is there; by default all are.
        y_mask: (R, M) boolean.
        max_memory_mb: the bound, in MiB.
        num_threads: threads for trees and matchings, by default as many as torch uses.
        progress: show a bar; None shows one where it is seen, and a line every half a minute in a log.
        path: a folder to keep finished rows in; it is made if need be.

    Returns:
        (S, R) of float64, on the device of x. Rows and columns of clouds with a NaN or an infinity are NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: an unknown distance or option, another shape, an empty cloud, a wrong mask, a memory bound in which
            not even one pair has room, or rows under `path` that cannot be read.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> samples, references = torch.randn(4, 50, 3), torch.randn(6, 80, 3)
        >>> pairwise(samples, references).shape
        torch.Size([4, 6])
        >>> within = pairwise(samples, distance="emd")
        >>> bool((within == within.mT).all()), within.diagonal().tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
    """
    check_choice(distance, tuple(DISTANCES), "distance")
    kind = DISTANCES[distance]
    arguments = kind.options(options or {}, distance)
    x, x_mask = _check_set(x, x_mask, "x")
    if y is None and y_mask is not None:
        raise ValueError("y_mask: expected none without y, the mask of x is used for both")
    mirrored = y is None and kind.symmetric
    columns, columns_mask = (x, x_mask) if y is None else _check_set(y, y_mask, "y")
    # A pair of points meets the checks that compare two clouds, and those of the options, before hours of work.
    kind.function(x[:1, :1], columns[:1, :1], **arguments)
    if kind.matching:
        _check_counts(x_mask, columns_mask, distance)
    threads = torch.get_num_threads() if num_threads is None else num_threads
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"num_threads: expected a whole number of at least 1, got {num_threads!r}")
    count_rows = _row_counter(kind, arguments, (x, x_mask), (columns, columns_mask), max_memory_mb, threads)
    step = _ROWS_OF_TREES if isinstance(count_rows, NearestRows) else 1

    key = fingerprint(distance, arguments, x, x_mask, columns, columns_mask, mirrored)
    store = None if path is None else MatrixStore(path, key, distance, (len(x), len(columns)))
    matrix = torch.zeros(len(x), len(columns), dtype=torch.float64)
    done = set() if store is None else store.read_into(matrix)
    widths = [len(columns) - row if mirrored else len(columns) for row in range(len(x))]
    with progress_bar(progress, distance, unit="pair", total=sum(widths)) as bar, torch.no_grad():
        bar.update(sum(widths[row] for row in done))
        for rows in _blocks([row for row in range(len(x)) if row not in done], step):
            first = rows.start if mirrored else 0
            matrix[rows, first:] = count_rows(rows, first)
            if store is not None:
                store.write(rows, matrix[rows])
            bar.update(sum(widths[rows]))
    if mirrored:
        matrix = matrix.triu(1)
        matrix = matrix + matrix.mT
        matrix.diagonal()[find_invalid(x, x_mask)] = torch.nan
    return matrix.to(x.device)


def _check_set(clouds: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    check_cloud(clouds, name)
    if clouds.dim() != 3 or not len(clouds):
        raise ValueError(f"{name}: expected a set of clouds of shape (S, N, D), got {tuple(clouds.shape)}")
    mask = check_mask(mask, clouds, f"{name}_mask")
    if mask.shape != clouds.shape[:-1]:
        raise ValueError(f"{name}_mask: expected shape {tuple(clouds.shape[:-1])}, got {tuple(mask.shape)}")
    return clouds.detach(), mask


def _check_counts(x_mask: Tensor, y_mask: Tensor, distance: str) -> None:
    counts = torch.cat([x_mask.sum(-1), y_mask.sum(-1)])
    if counts.min() != counts.max():
        raise ValueError(
            f"{distance}: expected clouds of one number of points, got {int(counts.min())} to {int(counts.max())}; "
            "draw the same number from each, or take chamfer or sinkhorn, which need no equal numbers"
        )


def _blocks(rows: list[int], step: int) -> list[slice]:
    """Cut rows into runs of neighbours, at most `step` long."""
    blocks: list[slice] = []
    for row in rows:
        if blocks and blocks[-1].stop == row and row - blocks[-1].start < step:
            blocks[-1] = slice(blocks[-1].start, row + 1)
        else:
            blocks.append(slice(row, row + 1))
    return blocks


def _row_counter(
    kind: Distance,
    arguments: dict[str, Any],
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    max_memory_mb: float,
    threads: int,
) -> Callable[[slice, int], Tensor]:
    """What computes some rows, from a first column on."""
    x, y = rows[0], columns[0]
    budget = max_memory_mb * 2**20
    if kind.function in (chamfer, hausdorff) and x.device.type == "cpu":
        convention = HAUSDORFF if kind.function is hausdorff else CHAMFER_CONVENTIONS[arguments["convention"]]
        return NearestRows(rows, columns, convention, budget, threads)
    largest = max(x.shape[1], y.shape[1]) ** 2 if arguments.get("debiased") else x.shape[1] * y.shape[1]
    element = 8 if kind.function is emd else x.element_size()
    # The C library keeps freed memory: the process was seen to grow by up to 11 matrices, of which 5 are in use.
    spare = 2 if x.device.type == "cpu" and kind.function is not emd else 1
    # What a pair has beside its matrices is a few times its points.
    one = spare * kind.matrices * largest * element + 8 * (x.shape[1] + y.shape[1]) * (x.shape[2] + 2) * 8
    room = int(budget // one)
    if room < 1:
        raise ValueError(
            f"max_memory_mb: {max_memory_mb} is not enough for one pair of clouds of {x.shape[1]} and {y.shape[1]} "
            f"points, give {one / 2**20:.3g} or more"
        )
    if kind.function is emd:
        return partial(_row_by_pairs, _exact(arguments, min(threads, room)), room, rows, columns)
    return partial(_row_by_pairs, partial(kind.function, **arguments), room, rows, columns)


def _exact(arguments: dict[str, Any], threads: int) -> Callable[..., Tensor]:
    def function(x: Tensor, y: Tensor, *, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        return matched_emd(pair_clouds(x, y, x_mask, y_mask), arguments["cost"], threads)

    return function


def _row_by_pairs(
    function: Callable[..., Tensor],
    room: int,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    some: slice,
    first: int,
) -> Tensor:
    (x, x_mask), (y, y_mask) = rows, columns
    result = torch.empty(some.stop - some.start, len(y) - first, dtype=torch.float64)
    for row in range(some.start, some.stop):
        for column in range(first, len(y), room):
            part = slice(column, column + room)
            values = function(x[row], y[part], x_mask=x_mask[row], y_mask=y_mask[part])
            result[row - some.start, column - first : column - first + room] = values
    return result
