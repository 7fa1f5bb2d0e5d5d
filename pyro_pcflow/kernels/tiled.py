"""A stack tile by tile in ordinary torch, without a graph: memory does not grow with its depth.

A tile of points goes through all couplings. The backward pass starts from the result and the coordinates that each
coupling overwrote, and evaluates hidden layers once more. A coordinate is a row of points, and so is an output of a
network; within, points are rows and units are columns, as matrix products of torch are fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_pcflow.kernels.program import Activation, Coupling, Network, Parameters, Program
from pyro_pcflow.ops.network import LEAKY_SLOPE, fourier_features

__all__ = ["backward", "forward"]

TILE = 8192  # points: fewer cost calls, and more leave the cache
FEW = 12  # inputs: a matrix product with so few is bound by memory

aten = torch.ops.aten
FUNCTIONS = {Activation.TANH: aten.tanh, Activation.SILU: aten.silu, Activation.GELU: aten.gelu}
NEEDS_VALUE = (Activation.SILU, Activation.GELU)


def forward(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings`."""
    out, log_det, saved = program.results(points, save)
    workspace = _Workspace(points)
    steps = _steps(program, weights, offsets, inverse)
    for tile in _tiles(points):
        x = tile.rows(points)
        logs = torch.zeros_like(x[0])
        for coupling, networks, place in steps:
            if save:
                for row, of_row in zip(coupling.moved, saved[place], strict=True):
                    tile.write(of_row, x[row])
            outputs = _evaluate(coupling, networks, tile, x, workspace)[0]
            _move(coupling, x, outputs, logs, inverse)
        tile.write(out, torch.stack(x, -1))
        tile.write(log_det, logs)
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
    """See `pyro_pcflow.kernels.operator.couplings_backward`."""
    grad_points = torch.empty_like(out)
    grad_weights, grad_offsets = torch.zeros_like(weights), torch.zeros_like(offsets)
    workspace = _Workspace(out)
    steps = zip(
        _steps(program, weights, offsets, inverse),
        _steps(program, grad_weights, grad_offsets, inverse),
        strict=True,
    )
    backwards = list(steps)[::-1]
    for tile in _tiles(out):
        x, g = tile.rows(out), tile.rows(grad_out)
        of_log_det = grad_log_det[tile.slices].reshape(-1)
        for (coupling, networks, place), (_, gradients, _) in backwards:
            for row, of_row in zip(coupling.moved, saved[place], strict=True):
                x[row] = of_row[tile.slices].reshape(-1)
            outputs, layers = _evaluate(coupling, networks, tile, x, workspace)
            grad_outputs = _move_back(coupling, x, outputs, g, of_log_det, inverse)
            parts = grad_outputs.split([network.outputs for network in coupling.networks])
            for network, parameters, of_parameters, kept, part in zip(
                coupling.networks, networks, gradients, layers, parts, strict=True
            ):
                below = _differentiate(network, parameters, of_parameters, kept, part, tile, of_weights, workspace)
                for row, gradient in zip(coupling.kept, below, strict=True):
                    g[row] = g[row] + gradient
        tile.write(grad_points, torch.stack(g, -1))
    return grad_points, grad_weights if of_weights else weights.new_empty(0), grad_offsets


class _Tile:
    """Points that go through all couplings together: of one group, or some whole groups."""

    def __init__(self, groups: slice, points: slice, like: Tensor) -> None:
        self.slices = groups, points
        self.groups, self.points, _ = like[self.slices].shape
        # A row for each group, which says with ones where its points are.
        self.members = torch.eye(self.groups, dtype=like.dtype).repeat_interleave(self.points, 1)

    def rows(self, points: Tensor) -> list[Tensor]:
        """The coordinates of its points, each of shape `(rows,)`."""
        return list(points[self.slices].flatten(0, 1).mT.contiguous())

    def write(self, to: Tensor, values: Tensor) -> None:
        """Put what belongs to its points into a tensor of all."""
        of_tile = to[self.slices]
        of_tile.copy_(values.view(of_tile.shape))

    def by_group(self, values: Tensor) -> Tensor:
        """From rows of points to groups of rows, for the scales and offsets of each group."""
        return values.view(self.groups, self.points, values.shape[-1])


def _tiles(points: Tensor) -> Iterator[_Tile]:
    groups, count, _ = points.shape
    together = max(1, TILE // max(1, count))
    for group in range(0, groups, together):
        for point in range(0, count, TILE):
            yield _Tile(slice(group, group + together), slice(point, point + TILE), points)


def _steps(
    program: Program, weights: Tensor, offsets: Tensor, inverse: bool
) -> list[tuple[Coupling, list[Parameters], slice]]:
    """Couplings in their order, with their parameters and where the coordinates that they overwrite are saved."""
    places, start = [], 0
    for coupling in program.couplings:
        places.append(slice(start, start + len(coupling.moved)))
        start += len(coupling.moved)
    steps = list(zip(program.couplings, program.split(weights, offsets), places, strict=True))
    return steps[::-1] if inverse else steps


class _Workspace:
    """Memory that every coupling leaves to the next: a fresh page costs more than the product that fills it."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: list[Tensor] = []
        self._next = 0

    def restart(self) -> None:
        """Give all memory back."""
        self._next = 0

    def take(self, *shape: int) -> Tensor:
        """A tensor of any content."""
        size = math.prod(shape)
        if self._next == len(self._buffers):
            self._buffers.append(self._like.new_empty(size))
        elif self._buffers[self._next].numel() < size:
            self._buffers[self._next] = self._like.new_empty(size)
        self._next += 1
        return self._buffers[self._next - 1][:size].view(shape)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The matrix product."""
        return torch.mm(a, b, out=self.take(a.shape[0], b.shape[1]))


@dataclass
class _Layer:
    """What the backward pass needs of a hidden layer: before its scale, before its activation, and after it."""

    raw: Tensor | None
    value: Tensor | None
    activated: Tensor


def _evaluate(
    coupling: Coupling, networks: Sequence[Parameters], tile: _Tile, x: list[Tensor], workspace: _Workspace
) -> tuple[Tensor, list[list[_Layer]]]:
    """The outputs of all networks of a coupling, shape `(outputs, rows)`, and their hidden layers `(rows, units)`."""
    workspace.restart()
    outputs, layers = [], []
    kept = torch.stack([x[row] for row in coupling.kept])
    for network, parameters in zip(coupling.networks, networks, strict=True):
        features = fourier_features(kept, network.num_frequencies, dim=0)
        hidden = _hidden_layers(network, parameters, features, tile, workspace)
        # Rows of points, so that a coordinate's outputs lie side by side.
        last = workspace.product(parameters.matrices[-1], hidden[-1].activated.mT)
        last.view(-1, tile.groups, tile.points).add_(parameters.offsets[-1][tile.slices[0]].mT.unsqueeze(-1))
        outputs.append(last)
        layers.append(hidden)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), layers


def _hidden_layers(
    network: Network, parameters: Parameters, features: Tensor, tile: _Tile, workspace: _Workspace
) -> list[_Layer]:
    """The features as the first, and all hidden layers."""
    layers = [_Layer(None, None, features.mT)]
    before = activated = features.mT
    layers_of = zip(parameters.matrices, parameters.scales, parameters.offsets, network.skips, strict=False)
    for matrix, scale, offset, skip in layers_of:
        raw = None
        offset = offset[tile.slices[0]]
        if scale is None and activated is layers[0].activated and len(features) + tile.groups <= FEW:
            # Another input or two cost less than another pass over the units.
            value = workspace.product(torch.cat([features, tile.members]).mT, torch.cat([matrix.mT, offset]))
        elif scale is None:
            # A product to which the offset is added from the start writes it first, which takes longer.
            value = workspace.product(activated, matrix.mT)
            tile.by_group(value).add_(offset.unsqueeze(1))
        else:
            raw = workspace.product(activated, matrix.mT)
            value = workspace.take(*raw.shape)
            factor = scale[tile.slices[0]].unsqueeze(1)
            torch.addcmul(offset.unsqueeze(1), tile.by_group(raw), factor, out=tile.by_group(value))
        if skip:
            value += before
        before = activated
        keep_value = network.activation in NEEDS_VALUE
        activated = workspace.take(*value.shape) if keep_value else value
        _activate(network.activation, value, activated)
        layers.append(_Layer(raw, value if keep_value else None, activated))
    return layers


def _activate(activation: Activation, value: Tensor, out: Tensor) -> None:
    if activation is Activation.RELU:
        torch.clamp_min(value, 0, out=out)
    elif activation is Activation.LEAKY_RELU:
        aten.leaky_relu.out(value, LEAKY_SLOPE, out=out)
    else:
        FUNCTIONS[activation].out(value, out=out)


def _through_activation(activation: Activation, gradient: Tensor, layer: _Layer) -> None:
    """Turn the gradient of what an activation makes into that of what it is given."""
    if activation is Activation.RELU:
        aten.threshold_backward.grad_input(gradient, layer.activated, 0, grad_input=gradient)
    elif activation is Activation.LEAKY_RELU:
        aten.leaky_relu_backward.grad_input(gradient, layer.activated, LEAKY_SLOPE, True, grad_input=gradient)
    elif activation is Activation.TANH:
        aten.tanh_backward.grad_input(gradient, layer.activated, grad_input=gradient)
    else:
        backward = aten.silu_backward if activation is Activation.SILU else aten.gelu_backward
        backward.grad_input(gradient, layer.value, grad_input=gradient)


def _move(coupling: Coupling, x: list[Tensor], outputs: Tensor, log_det: Tensor, inverse: bool) -> None:
    shifts, scales = outputs[: len(coupling.moved)], None
    if coupling.affine:
        limit = coupling.max_log_scale
        log_scale = outputs[len(coupling.moved) :].div_(limit).tanh_().mul_(limit if inverse else -limit)
        for change in log_scale:
            log_det += change
        scales = log_scale.exp_()
    for i, row in enumerate(coupling.moved):
        if scales is None:
            x[row] = x[row] + shifts[i] if inverse else x[row] - shifts[i]
        else:
            x[row] = torch.addcmul(shifts[i], x[row], scales[i]) if inverse else (x[row] - shifts[i]).mul_(scales[i])


def _move_back(
    coupling: Coupling, x: list[Tensor], outputs: Tensor, g: list[Tensor], grad_log_det: Tensor, inverse: bool
) -> Tensor:
    """The gradient of the outputs; that of the moved coordinates is brought up to date in `g`."""
    moved = coupling.moved
    grad = torch.stack([g[row] for row in moved])
    if not coupling.affine:
        return grad if inverse else grad.neg_()
    tangent = outputs[len(moved) :].div_(coupling.max_log_scale).tanh_()
    scaled = (tangent * (coupling.max_log_scale if inverse else -coupling.max_log_scale)).exp_().mul_(grad)
    for row, new in zip(moved, scaled, strict=True):
        g[row] = new
    before = torch.stack([x[row] for row in moved])
    if inverse:
        grad_shift, grad_log_scale = grad, before.mul_(scaled).add_(grad_log_det)
    else:
        grad_shift, grad_log_scale = -scaled, (outputs[: len(moved)] - before).mul_(scaled).sub_(grad_log_det)
    return torch.cat([grad_shift, grad_log_scale.addcmul_(grad_log_scale, tangent.square_(), value=-1)])


def _differentiate(
    network: Network,
    parameters: Parameters,
    gradients: Parameters,
    layers: list[_Layer],
    grad_outputs: Tensor,
    tile: _Tile,
    of_weights: bool,
    workspace: _Workspace,
) -> Tensor:
    """Add the gradients of a network's parameters to `gradients`; returns that of the kept coordinates, in rows."""
    groups = tile.slices[0]
    gradient = grad_outputs.mT
    skipped: dict[int, Tensor] = {}
    for i in reversed(range(len(parameters.matrices))):
        raw = layers[i + 1].raw if i + 1 < len(layers) else None
        scale, grad_scale = parameters.scales[i], gradients.scales[i]
        gradients.offsets[i][groups] += tile.by_group(gradient).sum(1)
        if raw is not None and scale is not None and grad_scale is not None:
            factor = scale[groups].unsqueeze(1)
            grad_scale[groups] += tile.by_group(raw.mul_(gradient)).sum(1)
            torch.mul(tile.by_group(gradient), factor, out=tile.by_group(raw))
            gradient = raw
        if of_weights and i > 0:
            gradients.matrices[i].addmm_(gradient.mT, layers[i].activated)
        elif of_weights:
            # With few inputs this product is three times as fast as its transpose.
            gradients.matrices[0].add_((layers[0].activated.mT @ gradient).mT)
        if i == 0:
            of_features = workspace.product(parameters.matrices[0].mT, gradient.mT)
            return _through_features(layers[0].activated.mT, of_features, network.num_frequencies)
        below = workspace.product(gradient, parameters.matrices[i])
        if i in skipped:
            below += skipped[i]
        gradient = below
        _through_activation(network.activation, gradient, layers[i])
        if network.skips[i - 1]:
            skipped[i - 2] = gradient
    raise AssertionError("a network has at least one layer")


def _through_features(features: Tensor, gradient: Tensor, num_frequencies: int) -> Tensor:
    """The gradient of what `fourier_features` are of, shape `(kept, rows)`."""
    rows = len(features) // (1 + 2 * num_frequencies)
    total = gradient[:rows]
    for octave in range(num_frequencies):
        sine, cosine = (rows * (1 + octave + shift) for shift in (0, num_frequencies))
        total.addcmul_(gradient[sine : sine + rows], features[cosine : cosine + rows], value=2.0**octave)
        total.addcmul_(gradient[cosine : cosine + rows], features[sine : sine + rows], value=-(2.0**octave))
    return total
