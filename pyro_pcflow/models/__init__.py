"""Generative models of many clouds."""

from pyro_pcflow.models.auto_decoder import AutoDecoder
from pyro_pcflow.models.generator import latent_flow
from pyro_pcflow.models.latent import unregistered
from pyro_pcflow.models.presets import PRESETS, Preset, preset
from pyro_pcflow.models.pretrained import PRETRAINED, load_pretrained
from pyro_pcflow.models.vae import PointCloudVAE

__all__ = [
    "PRESETS",
    "PRETRAINED",
    "AutoDecoder",
    "PointCloudVAE",
    "Preset",
    "latent_flow",
    "load_pretrained",
    "preset",
    "unregistered",
]
