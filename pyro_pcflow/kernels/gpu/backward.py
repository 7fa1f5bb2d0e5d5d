"""The Triton kernels of a backward pass; see `forward`.

The pass starts from the result and the coordinates that each coupling overwrote, and evaluates hidden layers once more.
"""

import triton
import triton.language as tl

from pyro_pcflow.kernels.gpu.forward import (
    COUPLING_SIZE,
    DEPTH,
    FIRST_LAYER,
    FIRST_NETWORK,
    FIRST_OUTPUT,
    FIRST_SAVED,
    LAYER_SIZE,
    MASK,
    MAX_COORDINATES,
    MAX_OUTPUTS,
    NETWORK_SIZE,
    NEXT_SKIP_ROW,
    NUM_FREQUENCIES,
    NUM_INPUTS,
    NUM_KEPT,
    NUM_LAYERS,
    NUM_MOVED,
    NUM_NETWORKS,
    NUM_OUTPUTS,
    NUMBERS,
    OFFSET,
    PLACES,
    ROW,
    SCALE,
    WEIGHT,
    evaluate,
    movement,
    product_of,
    tile_of,
)


@triton.jit
def _add(to, value, mask, fresh):
    """Add to a sum of this block alone, or start it."""
    if fresh:
        tl.store(to, value, mask=mask)
    else:
        tl.store(to, tl.load(to, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def _features_back(coupling, frequencies, features, gradients, TILE: tl.constexpr):
    """The gradient of the coordinates through their features, zero where they are moved."""
    d = tl.arange(0, MAX_COORDINATES)
    mask = ((tl.load(coupling + MASK) >> d) & 1)[:, None] != 0
    count = tl.load(coupling + NUM_KEPT)
    place = tl.load(coupling + PLACES + d)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    total = tl.load(gradients + place, mask=mask, other=0.0)
    scale = 1.0
    for octave in range(frequencies):
        sine = place + count * (1 + octave) * TILE
        cosine = place + count * (1 + frequencies + octave) * TILE
        of_sine = tl.load(gradients + sine, mask=mask, other=0.0) * tl.load(features + cosine, mask=mask, other=0.0)
        of_cosine = tl.load(gradients + cosine, mask=mask, other=0.0) * tl.load(features + sine, mask=mask, other=0.0)
        total += scale * (of_sine - of_cosine)
        scale = 2.0 * scale
    return total


@triton.jit
def _add_outer_product(
    g, width, values, inputs, to, fresh, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr
):
    """Add `g` of shape `(width, TILE)` times the transposed values of shape `(inputs, TILE)`."""
    for start in range(0, width, ROWS):
        row = start + tl.arange(0, ROWS)
        for first in range(0, inputs, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            total = tl.zeros((ROWS, COLUMNS), tl.float32)
            for point in range(0, TILE, DEPTH):
                t = point + tl.arange(0, DEPTH)
                left = tl.load(g + row[:, None] * TILE + t[None, :], mask=(row < width)[:, None], other=0.0)
                right = tl.load(
                    values + column[None, :] * TILE + t[:, None], mask=(column < inputs)[None, :], other=0.0
                )
                total = tl.dot(left, right, total, input_precision="ieee")
            mask = (row < width)[:, None] & (column < inputs)[None, :]
            _add(to + row[:, None] * inputs + column[None, :], total, mask, fresh)


@triton.jit
def _differentiate(
    table,
    coupling,
    network,
    weights,
    group_offsets,
    scratch,
    rows,
    weight_parts,
    offset_parts,
    of_weights,
    fresh_weights,
    fresh_offsets,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The gradient of a network's kept coordinates; those of its weights and offsets are added to the parts.

    Slopes and values before a scale, see `evaluate`, are overwritten by gradients.
    """
    t = tl.arange(0, TILE)[None, :]
    depth = tl.load(network + NUM_LAYERS)
    layer = table + tl.load(network + FIRST_LAYER) + (depth - 1) * LAYER_SIZE
    inputs, width, weight = tl.load(layer + NUM_INPUTS), tl.load(layer + NUM_OUTPUTS), tl.load(layer + WEIGHT)
    offset, place = tl.load(layer + OFFSET), tl.load(layer + ROW)
    # The row of the scratch matrix where the gradient of a layer's outputs starts.
    g = 3 * rows + MAX_OUTPUTS + tl.load(network + FIRST_OUTPUT)
    output = tl.arange(0, MAX_OUTPUTS)
    of_outputs = tl.load(scratch + (g + output)[:, None] * TILE + t, mask=(output < width)[:, None], other=0.0)
    _add(offset_parts + offset + output, tl.sum(of_outputs, 1), output < width, fresh_offsets)
    if of_weights != 0:
        _add_outer_product(
            scratch + g * TILE,
            width,
            scratch + place * TILE,
            inputs,
            weight_parts + weight,
            fresh_weights,
            MAX_OUTPUTS,
            ROWS,
            TILE,
        )
    for _layer in range(depth - 1):
        # Through the matrix of `layer` to what the layer below it puts out.
        below = layer - LAYER_SIZE
        scale, offset, skipped = tl.load(below + SCALE), tl.load(below + OFFSET), tl.load(layer + NEXT_SKIP_ROW)
        skipped_rows = tl.where(skipped >= 0, inputs, 0)
        for start in range(0, inputs, ROWS):
            v = product_of(weights + weight, inputs, width, 1, inputs, scratch + g * TILE, start, ROWS, TILE)
            row = start + tl.arange(0, ROWS)
            inside = row < inputs
            mask = inside[:, None]
            # A skip connection that ends two layers above has left its gradient in the place of that layer's slopes.
            above = (rows + skipped + row)[:, None] * TILE + t
            v += tl.load(scratch + above, mask=(row < skipped_rows)[:, None], other=0.0)
            at = (rows + place + row)[:, None] * TILE + t
            v *= tl.load(scratch + at, mask=mask, other=0.0)
            tl.store(scratch + at, v, mask=mask)
            _add(offset_parts + offset + row, tl.sum(v, 1), inside, fresh_offsets)
            if scale >= 0:
                before = tl.load(scratch + rows * TILE + at, mask=mask, other=0.0)
                _add(offset_parts + scale + row, tl.sum(v * before, 1), inside, fresh_offsets)
                factor = tl.load(group_offsets + scale + row, mask=inside, other=0.0)
                tl.store(scratch + rows * TILE + at, v * factor[:, None], mask=mask)
        g = place + tl.where(scale >= 0, 2 * rows, rows)
        layer = below
        inputs, width, weight = tl.load(layer + NUM_INPUTS), tl.load(layer + NUM_OUTPUTS), tl.load(layer + WEIGHT)
        place = tl.load(layer + ROW)
        tl.debug_barrier()
        if of_weights != 0:
            _add_outer_product(
                scratch + g * TILE,
                width,
                scratch + place * TILE,
                inputs,
                weight_parts + weight,
                fresh_weights,
                ROWS,
                ROWS,
                TILE,
            )
    # Nothing has a slope here, and its place takes the gradient of the features.
    for start in range(0, inputs, ROWS):
        v = product_of(weights + weight, inputs, width, 1, inputs, scratch + g * TILE, start, ROWS, TILE)
        row = start + tl.arange(0, ROWS)
        tl.store(scratch + (rows + place + row)[:, None] * TILE + t, v, mask=(row < inputs)[:, None])
    tl.debug_barrier()
    features = scratch + place * TILE
    return _features_back(coupling, tl.load(network + NUM_FREQUENCIES), features, features + rows * TILE, TILE)


@triton.jit(do_not_specialize=[*NUMBERS, "weights_size", "of_weights"])
def run_back(
    out,
    saved,
    weights,
    offsets,
    grad_out,
    grad_log_det,
    table,
    limits,
    grad_points,
    weight_parts,
    offset_parts,
    scratch,
    couplings,
    point_dim,
    points_per_group,
    total,
    num_offsets,
    weights_size,
    rows,
    tiles,
    tiles_per_group,
    tiles_per_block,
    inverse,
    of_weights,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The gradient of the points of this block, and its parts of those of the weights and of its groups' offsets."""
    block = tl.program_id(0)
    scratch += block.to(tl.int64) * (3 * rows + 2 * MAX_OUTPUTS) * TILE
    weight_parts += block.to(tl.int64) * weights_size
    for tile in range(block * tiles_per_block, tl.minimum((block + 1) * tiles_per_block, tiles)):
        group, point, inside, places, there = tile_of(tile, tiles_per_group, points_per_group, point_dim, TILE)
        group_offsets = offsets + group * num_offsets
        # Either number grows from one pair to the next, so each pair has a row of its own.
        group_parts = offset_parts + (block + group) * num_offsets
        fresh_weights = tile == block * tiles_per_block
        fresh_offsets = fresh_weights | (tile % tiles_per_group == 0)
        x = tl.load(out + places, mask=there, other=0.0)
        g = tl.load(grad_out + places, mask=there, other=0.0)
        of_log_det = tl.load(grad_log_det + point, mask=inside, other=0.0)[None, :]
        for i in range(couplings):
            index = tl.where(inverse != 0, i, couplings - 1 - i)
            coupling = table + index * COUPLING_SIZE
            d = tl.arange(0, MAX_COORDINATES)
            moves = ((((tl.load(coupling + MASK) >> d) & 1) == 0) & (d < point_dim))[:, None] & there
            first = (tl.load(coupling + FIRST_SAVED) + tl.load(coupling + PLACES + d)).to(tl.int64)
            x = tl.where(moves, tl.load(saved + first[:, None] * total + point[None, :], mask=moves, other=0.0), x)
            tl.debug_barrier()
            evaluate(table, coupling, weights, group_offsets, x, scratch, rows, True, ROWS, TILE)
            outputs = scratch + 3 * rows * TILE
            limit = tl.load(limits + index)
            moved, scaled, place, shift, tangent = movement(coupling, limit, outputs, point_dim, TILE)
            scale = tl.exp(tl.where(inverse != 0, limit * tangent, -limit * tangent))
            product = g * scale
            of_shift = tl.where(inverse != 0, g, -product)
            of_log_scale = tl.where(inverse != 0, product * x + of_log_det, -product * (x - shift) - of_log_det)
            of_outputs = outputs + MAX_OUTPUTS * TILE + place
            tl.store(of_outputs, of_shift, mask=moved)
            of_raw = of_log_scale * (1.0 - tangent * tangent)
            tl.store(of_outputs + tl.load(coupling + NUM_MOVED) * TILE, of_raw, mask=scaled)
            g = product
            tl.debug_barrier()
            network = table + tl.load(coupling + FIRST_NETWORK)
            for _network in range(tl.load(coupling + NUM_NETWORKS)):
                g += _differentiate(
                    table,
                    coupling,
                    network,
                    weights,
                    group_offsets,
                    scratch,
                    rows,
                    weight_parts,
                    group_parts,
                    of_weights,
                    fresh_weights,
                    fresh_offsets,
                    ROWS,
                    TILE,
                )
                network += NETWORK_SIZE
        tl.store(grad_points + places, g, mask=there)


@triton.jit(do_not_specialize=["num_offsets", "tiles_per_group", "tiles_per_block"])
def add_parts(parts, to, num_offsets, tiles_per_group, tiles_per_block, COLUMNS: tl.constexpr):
    """Add up the parts of a group's gradient in a fixed order, whichever blocks they come from."""
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    first, last = group * tiles_per_group, (group + 1) * tiles_per_group - 1
    for block in range(first // tiles_per_block, last // tiles_per_block + 1):
        total += tl.load(parts + (block + group) * num_offsets + column, mask=column < num_offsets, other=0.0)
    tl.store(to + group * num_offsets + column, total, mask=column < num_offsets)
