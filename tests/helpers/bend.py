"""An elementwise map as it is written outside this library, also for `--custom tests/helpers/bend.py:Bend`."""

from __future__ import annotations

import torch

from pyro_pcflow.transforms import Elementwise


class Bend(Elementwise):
    """Scale, then bend, `y = sinh(asinh(exp(s) x) + b)`: a map with two parameters and an option."""

    num_parameters = 2

    def __init__(self, limit=1.0):
        self.limit = limit
        self.config = {"limit": limit}

    def bounded(self, parameters):
        return (self.limit * torch.tanh(parameters / self.limit)).unbind(-1)

    def forward_and_log_det(self, x, parameters):
        log_scale, bend = self.bounded(parameters)
        scaled = x * log_scale.exp()
        angle = torch.asinh(scaled) + bend
        return torch.sinh(angle), torch.log(torch.cosh(angle)) - 0.5 * torch.log1p(scaled.square()) + log_scale

    def inverse_and_log_det(self, y, parameters):
        log_scale, bend = self.bounded(parameters)
        angle = torch.asinh(y) - bend
        log_slope = torch.log(torch.cosh(angle)) - 0.5 * torch.log1p(y.square()) - log_scale
        return torch.sinh(angle) * torch.exp(-log_scale), log_slope


class ForgottenOption(Bend):
    """Its configuration does not say its limit."""

    def __init__(self, limit=1.0):
        super().__init__(limit)
        self.config = {}
