"""A small flow whose every parameter matters."""

from __future__ import annotations

import torch

import pyro_pcflow as pcf


def make_flow(**options):
    torch.manual_seed(2)
    flow = pcf.PointCloudFlow(**{"point_dim": 3, "num_couplings": 3, "hidden_dims": [8], **options})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    flow.normalize(50 + 3 * torch.randn(100, 3))
    return flow
