"""Launch the Triton kernels: a whole stack in one launch, tile by tile, on all processors of a GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.kernels.gpu.records import MAX_OUTPUTS, Records, records_of
from pyro_pcflow.kernels.program import Program

__all__ = ["INTERPRETED", "TRITON", "backward", "forward"]

TRITON = importlib.util.find_spec("triton") is not None
# Triton's own switch, for tests: kernels run as Python, on tensors of a CPU.
INTERPRETED = TRITON and os.environ.get("TRITON_INTERPRET") == "1"

TILES = (64, 32, 16)  # points
PRODUCT_ROWS = (16, 32, 64)  # of a matrix that a product takes at a time
BLOCKS_PER_PROCESSOR, BLOCKS_PER_PROCESSOR_BACK = 4, 2
# Fewer warps run out of registers in a backward pass.
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
OPTIONS_BACK = {**OPTIONS, "num_warps": 8}
# Each block of a backward pass sums gradients of the weights by itself: these sums, added up in a fixed order, give
# the same bits again, which atomic additions do not. This is their largest size: half a GiB, on any processor.
MAX_PARTS = 2**27


def forward(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings`; float32 on a GPU."""
    out, log_det, saved = program.results(points, save)
    records = records_of(program, points.device)
    grid = _Grid.of(points, BLOCKS_PER_PROCESSOR)
    scratch = points.new_empty(grid.blocks, records.rows + MAX_OUTPUTS, grid.tile)
    with _on(points.device):
        _forward_kernels().run[(grid.blocks,)](
            points,
            weights,
            offsets,
            records.table,
            records.limits,
            out,
            log_det,
            saved,
            scratch,
            inverse=int(inverse),
            save=int(save),
            **_numbers(program, records, grid, points, offsets),
            **OPTIONS,
        )
    return out, log_det, saved


def backward(
    program: Program,
    out: Tensor,
    saved: Tensor,
    weights: Tensor,
    offsets: Tensor,
    grad_out: Tensor,
    grad_log_det: Tensor,
    inverse: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings_backward`; float32 on a GPU."""
    grad_points, grad_offsets = torch.empty_like(out), torch.zeros_like(offsets)
    size = len(weights) if of_weights else 0
    records = records_of(program, out.device)
    grid = _Grid.of(out, BLOCKS_PER_PROCESSOR_BACK, MAX_PARTS // max(size, 1))
    scratch = out.new_empty(grid.blocks, 3 * records.rows + 2 * MAX_OUTPUTS, grid.tile)
    weight_parts = out.new_empty(grid.blocks, size)
    groups, num_offsets = offsets.shape
    offset_parts = out.new_empty(grid.blocks + groups - 1, num_offsets)
    columns = 256
    with _on(out.device):
        _backward_kernels().run_back[(grid.blocks,)](
            out,
            saved,
            weights,
            offsets,
            grad_out,
            grad_log_det,
            records.table,
            records.limits,
            grad_points,
            weight_parts,
            offset_parts,
            scratch,
            weights_size=size,
            inverse=int(inverse),
            of_weights=int(of_weights),
            **_numbers(program, records, grid, out, offsets),
            **OPTIONS_BACK,
        )
        _backward_kernels().add_parts[(groups, -(-num_offsets // columns))](
            offset_parts,
            grad_offsets,
            num_offsets,
            grid.tiles_per_group,
            grid.tiles_per_block,
            COLUMNS=columns,
            **OPTIONS,
        )
    return grad_points, weight_parts.sum(0), grad_offsets


@dataclass(frozen=True)
class _Grid:
    """How points are divided: each block takes consecutive tiles, and a tile has points of one group."""

    tile: int  # points
    tiles_per_group: int
    tiles: int
    tiles_per_block: int
    blocks: int

    @classmethod
    def of(cls, points: Tensor, blocks_per_processor: int, most: int | None = None) -> _Grid:
        groups, count, _ = points.shape
        processors = _processors(points.device)
        # The largest tile that leaves no processor without one.
        tile = next((size for size in TILES if groups * -(-count // size) >= processors), TILES[-1])
        tiles_per_group = -(-count // tile)
        tiles = groups * tiles_per_group
        blocks = processors * blocks_per_processor
        tiles_per_block = -(-tiles // (blocks if most is None else max(1, min(blocks, most))))
        return cls(tile, tiles_per_group, tiles, tiles_per_block, -(-tiles // tiles_per_block))


def _numbers(program: Program, records: Records, grid: _Grid, points: Tensor, offsets: Tensor) -> dict[str, int]:
    return {
        "couplings": len(program.couplings),
        "point_dim": points.shape[2],
        "points_per_group": points.shape[1],
        "total": points.shape[0] * points.shape[1],
        "num_offsets": offsets.shape[1],
        "rows": records.rows,
        "tiles": grid.tiles,
        "tiles_per_group": grid.tiles_per_group,
        "tiles_per_block": grid.tiles_per_block,
        "ROWS": next((rows for rows in PRODUCT_ROWS if records.widest <= rows), PRODUCT_ROWS[-1]),
        "TILE": grid.tile,
    }


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, whichever its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


# Triton takes long to import and is not everywhere.


def _forward_kernels() -> Any:
    from pyro_pcflow.kernels.gpu import forward as triton_forward

    return triton_forward


def _backward_kernels() -> Any:
    from pyro_pcflow.kernels.gpu import backward as triton_backward

    return triton_backward
