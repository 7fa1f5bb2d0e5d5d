"""A program by ordinary operations of torch: the reference, with derivatives of any order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_pcflow.kernels.program import Coupling, Network, Parameters, Program
from pyro_pcflow.ops.coupling import affine_map, merge, split, tanh_bound
from pyro_pcflow.ops.network import fourier_features, modulated_mlp

__all__ = ["evaluate"]


def evaluate(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Carry points through all couplings; arguments and results as of `pyro_pcflow.kernels.operator.couplings`."""
    steps = list(zip(program.couplings, program.split(weights, offsets.unsqueeze(-2)), strict=True))
    log_det = points.new_zeros(points.shape[:-1])
    for coupling, parameters in reversed(steps) if inverse else steps:
        points, change = _step(coupling, parameters, points, inverse)
        log_det = log_det + change
    return points, log_det


def _step(coupling: Coupling, parameters: Sequence[Parameters], points: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    kept, moved = split(coupling.mask, points)
    pairs = zip(coupling.networks, parameters, strict=True)
    outputs = torch.cat([_outputs(*pair, kept) for pair in pairs], -1)
    if coupling.affine:
        shift, log_scale = outputs.chunk(2, -1)
        log_scale = tanh_bound(log_scale, coupling.max_log_scale)
    else:
        shift, log_scale = outputs, torch.zeros_like(outputs)
    moved, log_det = affine_map(moved, shift, log_scale, inverse)
    return merge(coupling.mask, kept, moved), log_det.sum(-1)


def _outputs(network: Network, parameters: Parameters, kept: Tensor) -> Tensor:
    layers = [partial(F.linear, weight=matrix) for matrix in parameters.matrices]
    modulations = list(zip(parameters.scales, parameters.offsets, strict=True))
    features = fourier_features(kept, network.num_frequencies)
    hidden = modulated_mlp(layers[:-1], features, modulations[:-1], network.skips, network.activation.option)
    return layers[-1](hidden) + parameters.offsets[-1]
