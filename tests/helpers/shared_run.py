"""A short training whose gradients are kept, in one process or several: `torchrun ... shared_run.py KIND OUT`."""

from __future__ import annotations

import os
import sys

import torch
from pyro.distributions import Normal

import pyro_pcflow as pcf


class FixedNormal(Normal):
    """A normal that always draws the same deviation, so that every process draws the same latent for a cloud."""

    def rsample(self, sample_shape=()):
        return self.loc + 0.7 * self.scale


class FixedVAE(pcf.PointCloudVAE):
    def encode(self, clouds, mask=None, *, labels=None, check=True):
        posterior = super().encode(clouds, mask, labels=labels, check=check).base_dist
        return FixedNormal(posterior.loc, posterior.scale, validate_args=False).to_event(1)


def clouds_of_many_sizes():
    generator = torch.Generator().manual_seed(0)
    sizes = [200, 130, 64, 10, 1, 0, 150, 90]
    return [torch.randn(size, 3, dtype=torch.float64, generator=generator) for size in sizes]


def module_and_data(kind):
    torch.manual_seed(1)
    small = {"num_couplings": 3, "hidden_dims": [8], "act_norm": True}
    if kind == "flow":
        return pcf.PointCloudFlow(3, **small).double(), torch.cat(clouds_of_many_sizes())
    return FixedVAE(3, 4, decoder=small, encoder={"point_dims": [8]}).double(), clouds_of_many_sizes()


def run(kind, out, **options):
    """Train for three steps and return the gradient of each, as the optimiser got it."""
    module, data = module_and_data(kind)
    gradients, step = [], torch.optim.AdamW.step

    def noting(self, *args, **kwargs):
        gradients.append(self.param_groups[0]["params"][0].grad.clone())
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = noting
    try:
        unclipped = pcf.training.Optimization(grad_clip=float("inf"))
        options = {"batch_size": 4, "optimization": unclipped, "held_out": 0, "device": "cpu", **options}
        result = pcf.fit(module, data, max_steps=3, out=out, **options)
    finally:
        torch.optim.AdamW.step = step
    # The warm-up may have taken a step before them, of weights of its own.
    return torch.stack(gradients[-3:]), result


if __name__ == "__main__":
    kind, out = sys.argv[1:]
    gradients, result = run(kind, out)
    torch.save({"gradients": gradients, "loss": result.history[-1]["loss"]}, f"{out}.{os.environ['RANK']}")
