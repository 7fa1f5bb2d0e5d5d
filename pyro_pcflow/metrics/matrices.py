"""Matrices of distances between all clouds of two sets, in bounded memory, and resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.metrics.distances import Distance, DistanceLike, as_distance
from pyro_pcflow.metrics.matching import emd, matched_emd
from pyro_pcflow.metrics.nearest_matchings import NearestMatchings
from pyro_pcflow.metrics.nearest_neighbours import CHAMFER_CONVENTIONS, HAUSDORFF, chamfer, hausdorff
from pyro_pcflow.metrics.neighbour_search import NearestRows
from pyro_pcflow.metrics.pairs import check_cloud, check_mask, nonfinite_clouds, pair_clouds
from pyro_pcflow.metrics.row_store import RowStore, fingerprint
from pyro_pcflow.ops.hashing import array_sha256
from pyro_pcflow.ops.progress import progress_bar

__all__ = ["pairwise"]

# Rows between two writes: a block of nearest points shares copies and trees, a row of matchings may take minutes.
_ROWS_OF_NEAREST = 32


def pairwise(
    x: Tensor,
    y: Tensor | None = None,
    distance: DistanceLike = "chamfer",
    *,
    options: Mapping[str, Any] | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    max_memory_mb: float = 512.0,
    num_threads: int | None = None,
    progress: bool | None = False,
    path: str | os.PathLike[str] | None = None,
    needed: Tensor | None = None,
) -> Tensor:
    """The matrix of distances between all clouds of two sets, or between all clouds of one set.

    With y, row i and column j hold `distance(x[i], y[j])`. Without y they hold `distance(x[i], x[j])`. Of a symmetric
    distance (Chamfer, Hausdorff, exact EMD) only half is then computed, and the diagonal is zero; of the others every
    entry is computed, the diagonal too.

    Chamfer and Hausdorff distances on a CPU are computed in float64, whatever the dtype of the clouds. No
    gradients are recorded.

    A distance may be any function of pairs of clouds: `Distance` says how it is called and what it must return, and
    gives it a name or marks it as symmetric.

    Memory: beside the clouds and the matrix, at most `max_memory_mb`; with a function of yours, if it needs no more
    than its `Distance` says.

    Resuming: with `path`, rows are kept as they are finished, in a folder of their own under `path`, which is named
    after the distance and a hash of clouds, masks, distance and options. The same call continues from there, or reads
    the whole matrix if it was finished; a call with anything else has another folder, and never finds these rows.
    Several matrices may share one `path`. Files are written under another name and then renamed: none is half-written.
    The hash of a function of yours covers its name, its bytecode, its defaults, and the values that it captures or that
    a `functools.partial` binds, but neither global variables nor other functions that it calls by name: if those
    change, give another path.

    Args:
        x: (S, N, D) of float32 or float64.
        y: (R, M, D), or None for the distances within x.
        distance: `"chamfer"`, `"hausdorff"`, `"emd"`, `"approximate_emd"`, `"sinkhorn"`, a function, or a `Distance`.
        options: arguments of that distance by name, such as `{"convention": "distance_mean"}` or `{"epsilon": 0.01}`.
        x_mask: (S, N) boolean, true where a point is there; by default all are.
        y_mask: (R, M) boolean.
        max_memory_mb: the bound, in MiB.
        num_threads: threads for nearest points and matchings, by default as many as torch uses.
        progress: show a bar; None shows one on a terminal, and a line every half a minute in a log.
        path: a folder to keep finished rows in; made if it is missing.
        needed: (S, R) boolean, for nearest neighbours in less time: which entries are wanted whatever they are, beside
            the smallest ones of each row and each column, on the diagonal and below it without effect where y is None.
            Of exact EMD, the others may then be lower bounds, larger than the smallest of their row and of their
            column; of other distances all are computed. By default all are wanted.

    Returns:
        (S, R) of float64, on the device of x. Rows and columns of clouds with a NaN or an infinity are NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64; a distance that is neither a name nor a function.
        ValueError: an unknown distance or option, another shape, an empty cloud, a wrong mask, a memory bound in which
            not even one pair has room, rows under `path` that cannot be read, or a function that returns another shape,
            NaN for finite clouds, or is called symmetric and is not.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> samples, references = torch.randn(4, 50, 3), torch.randn(6, 80, 3)
        >>> pairwise(samples, references).shape
        torch.Size([4, 6])
        >>> within = pairwise(samples, distance="emd")
        >>> bool((within == within.mT).all()), within.diagonal().tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
        >>> def between_means(x, y):
        ...     return torch.linalg.vector_norm(x.mean(-2) - y.mean(-2), dim=-1)
        >>> pairwise(samples, references, between_means).shape
        torch.Size([4, 6])
    """
    kind = as_distance(distance, "distance")
    arguments = kind.options(options or {})
    x, x_mask = _check_set(x, x_mask, "x")
    if y is None and y_mask is not None:
        raise ValueError("y_mask: expected none without y, the mask of x is used for both")
    mirrored = y is None and kind.symmetric
    columns, columns_mask = (x, x_mask) if y is None else _check_set(y, y_mask, "y")
    # The checks that compare two clouds, and those of the options, come before hours of work.
    pair_clouds(x[:1], columns[:1])
    if not kind.user_defined:
        kind.bind(arguments)(x[:1, :1], columns[:1, :1])
    if kind.equal_sizes:
        _check_counts(x_mask, columns_mask, kind.name)
    if mirrored:
        kind.check_symmetry(x, x_mask, arguments)
    threads = torch.get_num_threads() if num_threads is None else num_threads
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"num_threads: expected a whole number of at least 1, got {num_threads!r}")
    if needed is not None and (needed.dtype != torch.bool or needed.shape != (len(x), len(columns))):
        shape = (len(x), len(columns))
        raise ValueError(
            f"needed: expected a boolean tensor of shape {shape}, got {needed.dtype} {tuple(needed.shape)}"
        )
    # Of other distances nothing tells that they are large but the distances themselves.
    needed = needed if kind.function is emd else None
    sets = (x, x_mask), (columns, columns_mask)
    compute_rows = _row_computer(kind, arguments, *sets, max_memory_mb, threads, needed, mirrored)
    step = _ROWS_OF_NEAREST if isinstance(compute_rows, NearestRows) else 1

    store = None
    if path is not None:
        identity = kind.identity(arguments) + ([] if needed is None else [array_sha256(needed)])
        key = fingerprint(identity, x, x_mask, columns, columns_mask, mirrored)
        store = RowStore(path, key, kind.name, (len(x), len(columns)))
    matrix = torch.zeros(len(x), len(columns), dtype=torch.float64)
    done = set() if store is None else store.read_into(matrix)
    widths = [len(columns) - row if mirrored else len(columns) for row in range(len(x))]
    with progress_bar(progress, kind.name, unit="pair", total=sum(widths)) as bar, torch.no_grad():
        bar.update(sum(widths[row] for row in done))
        for rows in _blocks([row for row in range(len(x)) if row not in done], step):
            first = rows.start if mirrored else 0
            matrix[rows, first:] = compute_rows(rows, first)
            if store is not None:
                store.write(rows, matrix[rows])
            bar.update(sum(widths[rows]))
    if mirrored:
        matrix = matrix.triu(1)
        matrix = matrix + matrix.mT
        matrix.diagonal()[nonfinite_clouds(x, x_mask).cpu()] = torch.nan
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


def _row_computer(
    kind: Distance,
    arguments: dict[str, Any],
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    max_memory_mb: float,
    threads: int,
    needed: Tensor | None,
    mirrored: bool,
) -> Callable[[slice, int], Tensor]:
    """A function that computes some rows, from a first column on."""
    x, y = rows[0], columns[0]
    budget = max_memory_mb * 2**20
    if kind.function in (chamfer, hausdorff) and x.device.type == "cpu":
        convention = HAUSDORFF if kind.function is hausdorff else CHAMFER_CONVENTIONS[arguments["convention"]]
        return NearestRows(rows, columns, convention, budget, threads)
    largest = max(x.shape[1], y.shape[1]) ** 2 if arguments.get("debiased") else x.shape[1] * y.shape[1]
    # A matching has a matrix in each precision at worst, for each thread.
    element = 12 if kind.function is emd else x.element_size()
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
    if needed is not None:
        return NearestMatchings(rows, columns, arguments["cost"], needed, mirrored, min(threads, room))
    if kind.function is emd:
        return partial(_rows_by_pairs, _exact(arguments, min(threads, room)), room, rows, columns)
    return partial(_rows_by_pairs, kind.bind(arguments), room, rows, columns)


def _exact(arguments: dict[str, Any], threads: int) -> Callable[..., Tensor]:
    def function(x: Tensor, y: Tensor, *, x_mask: Tensor, y_mask: Tensor) -> Tensor:
        return matched_emd(pair_clouds(x, y, x_mask, y_mask), arguments["cost"], threads)

    return function


def _rows_by_pairs(
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
