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

from pyro_pcflow.kernels.plain import LEAK, fourier_features
from pyro_pcflow.kernels.program import Coupling, Network, Parameters, Program

__all__ = ["backward", "forward"]

TILE = 16384  # points: fewer cost calls, and more cost memory
FEW = 8  # inputs: a matrix product with so few is bound by memory

aten = torch.ops.aten
NEEDS_VALUE = ("silu", "gelu")


def forward(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings`."""
    groups, count, _ = points.shape
    out = torch.empty_like(points)
    log_det = points.new_zeros(groups, count)
    saved = points.new_empty(program.moves if save else 0, groups, count)
    workspace = _Workspace(points)
    for tile in _tiles(groups, count):
        x = points[tile].movedim(-1, 0).clone(memory_format=torch.contiguous_format)
        logs = log_det[tile]
        for coupling, parameters, place in _steps(program, weights, offsets[tile[0]], inverse):
            if save:
                saved[place][(slice(None), *tile)] = x[coupling.moved]
            outputs = _outputs(coupling, parameters, x, workspace)[0]
            _move(coupling, x, outputs, logs, inverse)
        out[tile] = x.movedim(0, -1)
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
    for tile in _tiles(*out.shape[:2]):
        x = out[tile].movedim(-1, 0).clone(memory_format=torch.contiguous_format)
        g = grad_out[tile].movedim(-1, 0).clone(memory_format=torch.contiguous_format)
        steps = zip(
            _steps(program, weights, offsets[tile[0]], inverse),
            _steps(program, grad_weights, grad_offsets[tile[0]], inverse),
            strict=True,
        )
        for (coupling, parameters, place), (_, gradients, _) in reversed(list(steps)):
            x[coupling.moved] = saved[place][(slice(None), *tile)]
            outputs, layers = _outputs(coupling, parameters, x, workspace)
            grad_outputs = _move_back(coupling, x, outputs, g, grad_log_det[tile], inverse)
            start = 0
            for network, own, theirs, kept in zip(coupling.networks, parameters, gradients, layers, strict=True):
                part = grad_outputs[start : start + network.outputs]
                _differentiate(coupling, network, own, theirs, kept, part, g, of_weights, workspace)
                start += network.outputs
        grad_points[tile] = g.movedim(0, -1)
    return grad_points, grad_weights if of_weights else weights.new_empty(0), grad_offsets


def _tiles(groups: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of points: of one group, or some whole groups."""
    together = max(1, TILE // max(1, count))
    for group in range(0, groups, together):
        for point in range(0, count, TILE):
            yield slice(group, group + together), slice(point, point + TILE)


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


@dataclass
class _Layer:
    """What the backward pass needs of a hidden layer: before its scale, before its activation, and after it."""

    raw: Tensor | None
    value: Tensor | None
    activated: Tensor


def _outputs(
    coupling: Coupling, parameters: Sequence[Parameters], x: Tensor, workspace: _Workspace
) -> tuple[Tensor, list[list[_Layer]]]:
    """The outputs of all networks of a coupling, shape `(outputs, g, n)`, and their hidden layers `(g, n, units)`."""
    outputs, layers = [], []
    kept = x[coupling.kept].movedim(0, -1)
    workspace.restart()
    for network, own in zip(coupling.networks, parameters, strict=True):
        hidden = _hidden_layers(network, own, fourier_features(kept, network.num_frequencies), workspace)
        outputs.append(_linear(own.matrices[-1], hidden[-1].activated, own.offsets[-1], workspace).movedim(-1, 0))
        layers.append(hidden)
    return torch.cat(outputs), layers


def _features_back(features: Tensor, gradient: Tensor, num_frequencies: int) -> Tensor:
    """The gradient of what `fourier_features` are of, shape `(kept, g, n)`."""
    of_feature, gradients = features.movedim(-1, 0), gradient.movedim(-1, 0)
    rows = len(of_feature) // (1 + 2 * num_frequencies)
    total = gradients[:rows].clone()
    for octave in range(num_frequencies):
        sine, cosine = (rows * (1 + octave + shift) for shift in (0, num_frequencies))
        total.addcmul_(gradients[sine : sine + rows], of_feature[cosine : cosine + rows], value=2.0**octave)
        total.addcmul_(gradients[cosine : cosine + rows], of_feature[sine : sine + rows], value=-(2.0**octave))
    return total


def _hidden_layers(network: Network, own: Parameters, features: Tensor, workspace: _Workspace) -> list[_Layer]:
    """The features as the first, and all hidden layers."""
    layers = [_Layer(None, None, features)]
    before = activated = features
    for matrix, scale, offset, skip in zip(own.matrices, own.scales, own.offsets, network.skips, strict=False):
        raw = None
        if scale is None:
            value = _linear(matrix, activated, offset, workspace)
        else:
            raw = _product(activated, matrix.mT, workspace)
            value = torch.addcmul(offset.unsqueeze(1), raw, scale.unsqueeze(1), out=workspace.take(*raw.shape))
        if skip:
            value += before
        before = activated
        keep_value = network.activation in NEEDS_VALUE
        activated = workspace.take(*value.shape) if keep_value else value
        _activate(network.activation, value, activated)
        layers.append(_Layer(raw, value if keep_value else None, activated))
    return layers


def _activate(name: str, value: Tensor, out: Tensor) -> None:
    if name == "relu":
        torch.clamp_min(value, 0, out=out)
    elif name == "leaky_relu":
        aten.leaky_relu.out(value, LEAK, out=out)
    else:
        {"tanh": aten.tanh, "silu": aten.silu, "gelu": aten.gelu}[name].out(value, out=out)


def _through_activation(name: str, gradient: Tensor, layer: _Layer) -> None:
    """Turn the gradient of what an activation makes into that of what it is given."""
    if name == "relu":
        aten.threshold_backward.grad_input(gradient, layer.activated, 0, grad_input=gradient)
    elif name == "leaky_relu":
        aten.leaky_relu_backward.grad_input(gradient, layer.activated, LEAK, True, grad_input=gradient)
    elif name == "tanh":
        aten.tanh_backward.grad_input(gradient, layer.activated, grad_input=gradient)
    else:
        backward = {"silu": aten.silu_backward, "gelu": aten.gelu_backward}[name]
        backward.grad_input(gradient, layer.value, grad_input=gradient)


def _product(x: Tensor, matrix: Tensor, workspace: _Workspace) -> Tensor:
    shape = (*x.shape[:-1], matrix.shape[-1])
    return torch.mm(x.flatten(0, 1), matrix, out=workspace.take(math.prod(shape[:-1]), shape[-1])).view(shape)


def _linear(matrix: Tensor, x: Tensor, offset: Tensor, workspace: _Workspace) -> Tensor:
    if len(offset) == 1 and matrix.shape[1] <= FEW:
        with_one = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
        return _product(with_one, torch.cat([matrix, offset.mT], -1).mT, workspace)
    # A product to which the offset is added from the start writes it first, which takes longer.
    return _product(x, matrix.mT, workspace).add_(offset.unsqueeze(1))


def _move(coupling: Coupling, x: Tensor, outputs: Tensor, log_det: Tensor, inverse: bool) -> None:
    moved = len(coupling.moved)
    for row, shift, raw in zip(coupling.moved, outputs, outputs[moved:] if coupling.affine else outputs, strict=False):
        if coupling.affine:
            log_scale = raw.div(coupling.max_log_scale).tanh_().mul_(coupling.max_log_scale)
        if not inverse:
            x[row] -= shift
        if coupling.affine:
            log_scale = log_scale if inverse else log_scale.neg_()
            log_det += log_scale
            x[row] *= log_scale.exp_()
        if inverse:
            x[row] += shift


def _move_back(
    coupling: Coupling, x: Tensor, outputs: Tensor, g: Tensor, grad_log_det: Tensor, inverse: bool
) -> Tensor:
    """The gradient of the outputs; that of the moved coordinates is brought up to date in `g`."""
    moved = coupling.moved
    grad = g[moved]
    if not coupling.affine:
        return grad if inverse else -grad
    tangent = outputs[len(moved) :].div(coupling.max_log_scale).tanh_()
    scaled = (tangent * (coupling.max_log_scale if inverse else -coupling.max_log_scale)).exp_().mul_(grad)
    g[moved] = scaled
    if inverse:
        grad_shift, grad_log_scale = grad, scaled * x[moved]
        grad_log_scale += grad_log_det
    else:
        grad_shift, grad_log_scale = -scaled, (outputs[: len(moved)] - x[moved]).mul_(scaled)
        grad_log_scale -= grad_log_det
    return torch.cat([grad_shift, grad_log_scale.addcmul_(grad_log_scale, tangent.square_(), value=-1)])


def _differentiate(
    coupling: Coupling,
    network: Network,
    own: Parameters,
    gradients: Parameters,
    layers: list[_Layer],
    grad_outputs: Tensor,
    g: Tensor,
    of_weights: bool,
    workspace: _Workspace,
) -> None:
    """Add the gradients of a network's parameters to `gradients`, and those of the kept coordinates to `g`."""
    gradient = grad_outputs.movedim(0, -1).contiguous()
    gradients.offsets[-1].add_(gradient.sum(1))
    skipped: dict[int, Tensor] = {}
    for i in reversed(range(len(own.matrices))):
        if of_weights:
            gradients.matrices[i].addmm_(gradient.flatten(0, 1).mT, layers[i].activated.flatten(0, 1))
        below = _product(gradient, own.matrices[i], workspace)
        if i == 0:
            g[coupling.kept] += _features_back(layers[0].activated, below, network.num_frequencies)
            return
        if i in skipped:
            below += skipped[i]
        gradient = below
        _through_activation(network.activation, gradient, layers[i])
        gradients.offsets[i - 1].add_(gradient.sum(1))
        if network.skips[i - 1]:
            skipped[i - 2] = gradient
        raw, scale, grad_scale = layers[i].raw, own.scales[i - 1], gradients.scales[i - 1]
        if raw is not None and scale is not None and grad_scale is not None:
            grad_scale.add_(raw.mul_(gradient).sum(1))
            gradient = torch.mul(gradient, scale.unsqueeze(1), out=raw)
