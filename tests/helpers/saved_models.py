"""Tiny models of every class that `pcf.save` writes, by name."""

from __future__ import annotations

import pyro_pcflow as pcf
from pyro_pcflow.models import AutoDecoder

SMALL_FLOW = {"num_couplings": 2, "hidden_dims": [8]}
SMALL = {"latent_dim": 2, "decoder": SMALL_FLOW, "prior_options": {"num_couplings": 2, "hidden_dims": [8]}}
SMALL_VAE = {**SMALL, "encoder": {"point_dims": [8], "hidden_dims": [8]}}

MODELS = {
    "flow": lambda: pcf.PointCloudFlow(3, **SMALL_FLOW),
    "double": lambda: pcf.PointCloudFlow(3, **SMALL_FLOW).double(),
    "flat": lambda: pcf.PointCloudFlow(2, **SMALL_FLOW),
    "six": lambda: pcf.PointCloudFlow(6, **SMALL_FLOW),
    "mixture": lambda: pcf.distributions.MixtureOfFlows(2, 3, **SMALL_FLOW),
    "context": lambda: pcf.PointCloudFlow(3, context_dim=4, **SMALL_FLOW),
    "mixture_context": lambda: pcf.distributions.MixtureOfFlows(2, 3, context_dim=4, **SMALL_FLOW),
    "vae": lambda: pcf.PointCloudVAE(3, **SMALL_VAE),
    "vae_mixture": lambda: pcf.PointCloudVAE(3, num_flows=2, prior="normal", noise_input=True, **SMALL_VAE),
    "classes": lambda: pcf.PointCloudVAE(3, num_classes=3, **SMALL_VAE),
    "auto": lambda: AutoDecoder(4, 3, **SMALL),
    "auto_classes": lambda: AutoDecoder(4, 3, num_classes=3, **SMALL),
}
# What the command line needs beside the name of the file.
LABELS = {"classes": ["--label", "1"], "auto_classes": ["--label", "2"]}
