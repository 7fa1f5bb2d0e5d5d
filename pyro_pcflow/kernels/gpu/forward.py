"""The kernel in Triton, which only `fused_gpu` imports, and only where it runs.

One launch carries tiles of points through all couplings. The program is a table of numbers, see `layout.Layout`, that
the kernel reads as it goes, so that one compiled kernel serves all stacks. What a tile needs between two layers lies in
a scratch matrix of its own, small enough for the caches, with units as rows and points as columns. A barrier stands
wherever threads read what others have written there.
"""

import triton
import triton.language as tl

from pyro_pcflow.kernels.gpu import records as layout

COORDINATES = tl.constexpr(layout.COORDINATES)
OUTPUTS = tl.constexpr(layout.OUTPUTS)
COUPLING = tl.constexpr(layout.COUPLING)
NETWORK = tl.constexpr(layout.NETWORK)
LAYER = tl.constexpr(layout.LAYER)
# Columns of a matrix that a product takes at a time.
DEPTH = tl.constexpr(16)
# What both kernels take, and what may change without a new compilation.
NUMBERS = (
    "couplings",
    "point_dim",
    "points_per_group",
    "total",
    "own_size",
    "rows",
    "tiles",
    "per_group",
    "per_program",
    "inverse",
)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _activate(x, activation):
    """An activation's value and slope; what is not a number stays so."""
    slope = tl.where(x > 0.0, 1.0, 0.0)
    value = tl.where(x < 0.0, 0.0, x)
    if activation == 1:
        share = tl.sigmoid(x)
        slope = share * (1.0 + x * (1.0 - share))
        value = x * share
    elif activation == 2:
        value = _tanh(x)
        slope = 1.0 - value * value
    elif activation == 3:
        share = 0.5 + 0.5 * tl.erf(0.7071067811865476 * x)
        slope = share + 0.3989422804014327 * x * tl.exp(-0.5 * x * x)
        value = x * share
    elif activation == 4:
        slope = tl.where(x > 0.0, 1.0, 0.1)
        value = tl.where(x < 0.0, 0.1 * x, x)
    return value, slope


@triton.jit
def product_of(matrix, rows, depth, row_step, column_step, x, start, ROWS: tl.constexpr, TILE: tl.constexpr):
    """`ROWS` rows from `start` of a matrix, whose steps are given, times `x` of shape `(depth, TILE)`."""
    row = start + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, TILE), tl.float32)
    for first in range(0, depth, DEPTH):
        k = first + tl.arange(0, DEPTH)
        at = row[:, None] * row_step + k[None, :] * column_step
        factors = tl.load(matrix + at, mask=(row < rows)[:, None] & (k < depth)[None, :], other=0.0)
        values = tl.load(x + k[:, None] * TILE + tl.arange(0, TILE)[None, :], mask=(k < depth)[:, None], other=0.0)
        total = tl.dot(factors, values, total, input_precision="ieee")
    return total


@triton.jit
def _features(coupling, frequencies, x, to, TILE: tl.constexpr):
    """Write the kept coordinates among `x` of shape `(COORDINATES, TILE)` and their sines and cosines."""
    d = tl.arange(0, COORDINATES)
    mask = ((tl.load(coupling) >> d) & 1)[:, None] != 0
    count = tl.load(coupling + 2)
    place = to + tl.load(coupling + 8 + d)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(place, x, mask=mask)
    angle = x
    for octave in range(frequencies):
        tl.store(place + count * (1 + octave) * TILE, tl.sin(angle), mask=mask)
        tl.store(place + count * (1 + frequencies + octave) * TILE, tl.cos(angle), mask=mask)
        angle = 2.0 * angle


@triton.jit
def evaluate(
    table, coupling, weights, own, x, scratch, rows, KEEP: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr
):
    """Write the outputs of all networks of a coupling, and whatever `KEEP` says that a backward pass needs.

    The scratch matrix has `rows` rows of values; if `KEEP`, as many slopes of the activations and as many values before
    a scale; then the outputs.
    """
    t = tl.arange(0, TILE)[None, :]
    outputs = scratch + (3 * rows if KEEP else rows) * TILE
    network = table + tl.load(coupling + 5)
    for _network in range(tl.load(coupling + 6)):
        activation = tl.load(network + 1)
        layer = table + tl.load(network + 4)
        _features(coupling, tl.load(network), x, scratch + tl.load(layer + 5) * TILE, TILE)
        for _layer in range(tl.load(network + 3) - 1):
            inputs, width, weight = tl.load(layer), tl.load(layer + 1), tl.load(layer + 2)
            scale, offset, place = tl.load(layer + 3), tl.load(layer + 4), tl.load(layer + 5)
            skipped = tl.load(layer + 6)
            scaled_rows, skipped_rows = tl.where(scale >= 0, width, 0), tl.where(skipped >= 0, width, 0)
            tl.debug_barrier()
            for start in range(0, width, ROWS):
                v = product_of(weights + weight, width, inputs, inputs, 1, scratch + place * TILE, start, ROWS, TILE)
                row = start + tl.arange(0, ROWS)
                to = (place + inputs + row)[:, None] * TILE + t
                mask = (row < width)[:, None]
                if KEEP:
                    tl.store(scratch + 2 * rows * TILE + to, v, mask=(row < scaled_rows)[:, None])
                v = v * tl.load(own + scale + row, mask=row < scaled_rows, other=1.0)[:, None]
                v += tl.load(own + offset + row, mask=row < width, other=0.0)[:, None]
                before = scratch + (skipped + row)[:, None] * TILE + t
                v += tl.load(before, mask=(row < skipped_rows)[:, None], other=0.0)
                value, slope = _activate(v, activation)
                tl.store(scratch + to, value, mask=mask)
                if KEEP:
                    tl.store(scratch + rows * TILE + to, slope, mask=mask)
            layer += LAYER
        inputs, width, weight = tl.load(layer), tl.load(layer + 1), tl.load(layer + 2)
        offset, place = tl.load(layer + 4), tl.load(layer + 5)
        tl.debug_barrier()
        v = product_of(weights + weight, width, inputs, inputs, 1, scratch + place * TILE, 0, OUTPUTS, TILE)
        row = tl.arange(0, OUTPUTS)
        v += tl.load(own + offset + row, mask=row < width, other=0.0)[:, None]
        tl.store(outputs + (tl.load(network + 2) + row)[:, None] * TILE + t, v, mask=(row < width)[:, None])
        network += NETWORK
    tl.debug_barrier()


@triton.jit
def movement(coupling, limit, outputs, point_dim, TILE: tl.constexpr):
    """Which coordinates a coupling moves, which it scales, where their outputs are, the shifts, and the log-scales.

    The latter are in units of their limit. Where there is none, a shift or a log-scale is zero.
    """
    d = tl.arange(0, COORDINATES)
    moved = ((((tl.load(coupling) >> d) & 1) == 0) & (d < point_dim))[:, None]
    which = tl.load(coupling + 8 + d)[:, None]
    place = which * TILE + tl.arange(0, TILE)[None, :]
    scaled = moved & (which < tl.load(coupling + 1))
    shift = tl.load(outputs + place, mask=moved, other=0.0)
    raw = tl.load(outputs + tl.load(coupling + 3) * TILE + place, mask=scaled, other=0.0)
    return moved, scaled, place, shift, _tanh(raw / limit)


@triton.jit
def tile_of(tile, per_group, points_per_group, point_dim, TILE: tl.constexpr):
    """Of a tile: its group, its points, which of them there are, the places of their coordinates, which there are."""
    group = (tile // per_group).to(tl.int64)
    column = tile % per_group * TILE + tl.arange(0, TILE)
    d = tl.arange(0, COORDINATES)
    point = group * points_per_group + column
    inside = column < points_per_group
    return group, point, inside, point[None, :] * point_dim + d[:, None], inside[None, :] & (d < point_dim)[:, None]


@triton.jit(do_not_specialize=[*NUMBERS, "save"])
def run(
    points,
    weights,
    offsets,
    table,
    limits,
    out,
    log_det,
    saved,
    scratch,
    couplings,
    point_dim,
    points_per_group,
    total,
    own_size,
    rows,
    tiles,
    per_group,
    per_program,
    inverse,
    save,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Carry the tiles of this program through all couplings; arguments as of `fused_gpu.forward`."""
    program = tl.program_id(0)
    scratch += program.to(tl.int64) * (rows + OUTPUTS) * TILE
    for tile in range(program * per_program, tl.minimum((program + 1) * per_program, tiles)):
        group, point, inside, places, there = tile_of(tile, per_group, points_per_group, point_dim, TILE)
        own = offsets + group * own_size
        x = tl.load(points + places, mask=there, other=0.0)
        change = tl.zeros((TILE,), tl.float32)
        for i in range(couplings):
            index = tl.where(inverse != 0, couplings - 1 - i, i)
            coupling = table + index * COUPLING
            tl.debug_barrier()
            evaluate(table, coupling, weights, own, x, scratch, rows, False, ROWS, TILE)
            outputs = scratch + rows * TILE
            limit = tl.load(limits + index)
            moved, _scaled, _place, shift, tangent = movement(coupling, limit, outputs, point_dim, TILE)
            if save != 0:
                first = (tl.load(coupling + 4) + tl.load(coupling + 8 + tl.arange(0, COORDINATES))).to(tl.int64)
                tl.store(saved + first[:, None] * total + point[None, :], x, mask=moved & there)
            log_scale = limit * tangent
            log_scale = tl.where(inverse != 0, log_scale, -log_scale)
            scale = tl.exp(log_scale)
            x = tl.where(inverse != 0, x * scale + shift, (x - shift) * scale)
            change += tl.sum(log_scale, 0)
        tl.store(out + places, x, mask=there)
        tl.store(log_det + point, change, mask=inside)
