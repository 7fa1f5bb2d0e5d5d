"""The Triton kernel of a forward pass, which only `launch` imports, and only where it runs.

One launch carries tiles of points through all couplings. The program is a table of records, see `records.Records`, that
the kernel reads as it runs, so that one compiled kernel serves all stacks. What a tile needs between two layers lies in
a scratch matrix of its own, small enough for the caches, with units as rows and points as columns. A barrier stands
wherever threads read what others have written there.
"""

import triton
import triton.language as tl

from pyro_pcflow.kernels import program
from pyro_pcflow.kernels.gpu import records
from pyro_pcflow.kernels.gpu.records import CouplingRecord, LayerRecord, NetworkRecord
from pyro_pcflow.kernels.program import Activation
from pyro_pcflow.ops import network as functions


def _field(record, name):
    """Where a field of a record is."""
    return tl.constexpr(record._fields.index(name))


MAX_COORDINATES = tl.constexpr(program.MAX_COORDINATES)
MAX_OUTPUTS = tl.constexpr(records.MAX_OUTPUTS)
MASK = _field(CouplingRecord, "mask")
NUM_LOG_SCALES = _field(CouplingRecord, "num_log_scales")
NUM_KEPT = _field(CouplingRecord, "num_kept")
NUM_MOVED = _field(CouplingRecord, "num_moved")
FIRST_SAVED = _field(CouplingRecord, "first_saved")
FIRST_NETWORK = _field(CouplingRecord, "first_network")
NUM_NETWORKS = _field(CouplingRecord, "num_networks")
PLACES = tl.constexpr(len(CouplingRecord._fields))
COUPLING_SIZE = tl.constexpr(len(CouplingRecord._fields) + program.MAX_COORDINATES)
NUM_FREQUENCIES = _field(NetworkRecord, "num_frequencies")
ACTIVATION = _field(NetworkRecord, "activation")
FIRST_OUTPUT = _field(NetworkRecord, "first_output")
NUM_LAYERS = _field(NetworkRecord, "num_layers")
FIRST_LAYER = _field(NetworkRecord, "first_layer")
NETWORK_SIZE = tl.constexpr(len(NetworkRecord._fields))
NUM_INPUTS = _field(LayerRecord, "num_inputs")
NUM_OUTPUTS = _field(LayerRecord, "num_outputs")
WEIGHT = _field(LayerRecord, "weight")
SCALE = _field(LayerRecord, "scale")
OFFSET = _field(LayerRecord, "offset")
ROW = _field(LayerRecord, "row")
SKIP_ROW = _field(LayerRecord, "skip_row")
NEXT_SKIP_ROW = _field(LayerRecord, "next_skip_row")
LAYER_SIZE = tl.constexpr(len(LayerRecord._fields))
SILU = tl.constexpr(int(Activation.SILU))
TANH = tl.constexpr(int(Activation.TANH))
GELU = tl.constexpr(int(Activation.GELU))
LEAKY_RELU = tl.constexpr(int(Activation.LEAKY_RELU))
LEAKY_SLOPE = tl.constexpr(functions.LEAKY_SLOPE)
# Columns of a matrix that a product takes at a time.
DEPTH = tl.constexpr(16)
# What both kernels take, and what may change without a new compilation.
NUMBERS = (
    "couplings",
    "point_dim",
    "points_per_group",
    "total",
    "num_offsets",
    "rows",
    "tiles",
    "tiles_per_group",
    "tiles_per_block",
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
    if activation == SILU:
        share = tl.sigmoid(x)
        slope = share * (1.0 + x * (1.0 - share))
        value = x * share
    elif activation == TANH:
        value = _tanh(x)
        slope = 1.0 - value * value
    elif activation == GELU:
        share = 0.5 + 0.5 * tl.erf(0.7071067811865476 * x)
        slope = share + 0.3989422804014327 * x * tl.exp(-0.5 * x * x)
        value = x * share
    elif activation == LEAKY_RELU:
        slope = tl.where(x > 0.0, 1.0, LEAKY_SLOPE)
        value = tl.where(x < 0.0, LEAKY_SLOPE * x, x)
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
    """Write the kept coordinates among `x` of shape `(MAX_COORDINATES, TILE)` and their sines and cosines."""
    d = tl.arange(0, MAX_COORDINATES)
    mask = ((tl.load(coupling + MASK) >> d) & 1)[:, None] != 0
    count = tl.load(coupling + NUM_KEPT)
    place = to + tl.load(coupling + PLACES + d)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(place, x, mask=mask)
    angle = x
    for octave in range(frequencies):
        tl.store(place + count * (1 + octave) * TILE, tl.sin(angle), mask=mask)
        tl.store(place + count * (1 + frequencies + octave) * TILE, tl.cos(angle), mask=mask)
        angle = 2.0 * angle


@triton.jit
def evaluate(
    table,
    coupling,
    weights,
    group_offsets,
    x,
    scratch,
    rows,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the outputs of all networks of a coupling, and whatever `KEEP` says that a backward pass needs.

    The scratch matrix has `rows` rows of values; if `KEEP`, as many slopes of the activations and as many values before
    a scale; then the outputs.
    """
    t = tl.arange(0, TILE)[None, :]
    outputs = scratch + (3 * rows if KEEP else rows) * TILE
    network = table + tl.load(coupling + FIRST_NETWORK)
    for _network in range(tl.load(coupling + NUM_NETWORKS)):
        activation = tl.load(network + ACTIVATION)
        layer = table + tl.load(network + FIRST_LAYER)
        _features(coupling, tl.load(network + NUM_FREQUENCIES), x, scratch + tl.load(layer + ROW) * TILE, TILE)
        for _layer in range(tl.load(network + NUM_LAYERS) - 1):
            inputs, width, weight = tl.load(layer + NUM_INPUTS), tl.load(layer + NUM_OUTPUTS), tl.load(layer + WEIGHT)
            scale, offset, place = tl.load(layer + SCALE), tl.load(layer + OFFSET), tl.load(layer + ROW)
            skipped = tl.load(layer + SKIP_ROW)
            scaled_rows, skipped_rows = tl.where(scale >= 0, width, 0), tl.where(skipped >= 0, width, 0)
            tl.debug_barrier()
            for start in range(0, width, ROWS):
                v = product_of(weights + weight, width, inputs, inputs, 1, scratch + place * TILE, start, ROWS, TILE)
                row = start + tl.arange(0, ROWS)
                to = (place + inputs + row)[:, None] * TILE + t
                mask = (row < width)[:, None]
                if KEEP:
                    tl.store(scratch + 2 * rows * TILE + to, v, mask=(row < scaled_rows)[:, None])
                v = v * tl.load(group_offsets + scale + row, mask=row < scaled_rows, other=1.0)[:, None]
                v += tl.load(group_offsets + offset + row, mask=row < width, other=0.0)[:, None]
                before = scratch + (skipped + row)[:, None] * TILE + t
                v += tl.load(before, mask=(row < skipped_rows)[:, None], other=0.0)
                value, slope = _activate(v, activation)
                tl.store(scratch + to, value, mask=mask)
                if KEEP:
                    tl.store(scratch + rows * TILE + to, slope, mask=mask)
            layer += LAYER_SIZE
        inputs, width, weight = tl.load(layer + NUM_INPUTS), tl.load(layer + NUM_OUTPUTS), tl.load(layer + WEIGHT)
        offset, place = tl.load(layer + OFFSET), tl.load(layer + ROW)
        tl.debug_barrier()
        v = product_of(weights + weight, width, inputs, inputs, 1, scratch + place * TILE, 0, MAX_OUTPUTS, TILE)
        row = tl.arange(0, MAX_OUTPUTS)
        v += tl.load(group_offsets + offset + row, mask=row < width, other=0.0)[:, None]
        tl.store(outputs + (tl.load(network + FIRST_OUTPUT) + row)[:, None] * TILE + t, v, mask=(row < width)[:, None])
        network += NETWORK_SIZE
    tl.debug_barrier()


@triton.jit
def movement(coupling, limit, outputs, point_dim, TILE: tl.constexpr):
    """Which coordinates a coupling moves, which it scales, where their outputs are, the shifts, and the log-scales.

    The latter are in units of their limit. Where there is none, a shift or a log-scale is zero.
    """
    d = tl.arange(0, MAX_COORDINATES)
    moved = ((((tl.load(coupling + MASK) >> d) & 1) == 0) & (d < point_dim))[:, None]
    which = tl.load(coupling + PLACES + d)[:, None]
    place = which * TILE + tl.arange(0, TILE)[None, :]
    scaled = moved & (which < tl.load(coupling + NUM_LOG_SCALES))
    shift = tl.load(outputs + place, mask=moved, other=0.0)
    raw = tl.load(outputs + tl.load(coupling + NUM_MOVED) * TILE + place, mask=scaled, other=0.0)
    return moved, scaled, place, shift, _tanh(raw / limit)


@triton.jit
def tile_of(tile, tiles_per_group, points_per_group, point_dim, TILE: tl.constexpr):
    """Of a tile: its group, its points, which of them there are, the places of their coordinates, which there are."""
    group = (tile // tiles_per_group).to(tl.int64)
    column = tile % tiles_per_group * TILE + tl.arange(0, TILE)
    d = tl.arange(0, MAX_COORDINATES)
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
    num_offsets,
    rows,
    tiles,
    tiles_per_group,
    tiles_per_block,
    inverse,
    save,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Carry the tiles of this block through all couplings; arguments as of `launch.forward`."""
    block = tl.program_id(0)
    scratch += block.to(tl.int64) * (rows + MAX_OUTPUTS) * TILE
    for tile in range(block * tiles_per_block, tl.minimum((block + 1) * tiles_per_block, tiles)):
        group, point, inside, places, there = tile_of(tile, tiles_per_group, points_per_group, point_dim, TILE)
        group_offsets = offsets + group * num_offsets
        x = tl.load(points + places, mask=there, other=0.0)
        change = tl.zeros((TILE,), tl.float32)
        for i in range(couplings):
            index = tl.where(inverse != 0, couplings - 1 - i, i)
            coupling = table + index * COUPLING_SIZE
            tl.debug_barrier()
            evaluate(table, coupling, weights, group_offsets, x, scratch, rows, False, ROWS, TILE)
            outputs = scratch + rows * TILE
            limit = tl.load(limits + index)
            moved, _scaled, _place, shift, tangent = movement(coupling, limit, outputs, point_dim, TILE)
            if save != 0:
                d = tl.arange(0, MAX_COORDINATES)
                first = (tl.load(coupling + FIRST_SAVED) + tl.load(coupling + PLACES + d)).to(tl.int64)
                tl.store(saved + first[:, None] * total + point[None, :], x, mask=moved & there)
            log_scale = limit * tangent
            log_scale = tl.where(inverse != 0, log_scale, -log_scale)
            scale = tl.exp(log_scale)
            x = tl.where(inverse != 0, x * scale + shift, (x - shift) * scale)
            change += tl.sum(log_scale, 0)
        tl.store(out + places, x, mask=there)
        tl.store(log_det + point, change, mask=inside)
