"""A run in a process of its own, for tests that kill it: `python killed_run.py KIND OUT MAX_STEPS`."""

from __future__ import annotations

import sys
import warnings

import torch
from stand_ins import small_stack, some_points

import pyro_pcflow as pcf

OPTIONS = {"batch_size": 64, "noise": 0.1, "log_every": 3, "eval_every": 10, "checkpoint_every": 2, "device": "cpu"}


def module_and_data(kind):
    """A density and points, or a model of many clouds and clouds."""
    if kind == "stack":
        return small_stack(), some_points()
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(
        3, 4, decoder={"num_couplings": 2, "hidden_dims": [8]}, encoder={"point_dims": [8], "hidden_dims": [8]}
    )
    return vae, torch.randn(24, 100, 3)


if __name__ == "__main__":
    warnings.simplefilter("error")
    kind, out, max_steps = sys.argv[1:]
    module, data = module_and_data(kind)
    # Drawn, it would only take longer.
    pcf.fit(module, data, max_steps=int(max_steps), out=out, resume=True, pictures=False, **OPTIONS)
