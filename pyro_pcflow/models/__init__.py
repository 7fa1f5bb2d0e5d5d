"""Generative models of many clouds."""

from pyro_pcflow.models.auto_decoder import AutoDecoder
from pyro_pcflow.models.latent_prior import latent_flow
from pyro_pcflow.models.presets import PRESETS, Preset, preset
from pyro_pcflow.models.vae import PointCloudVAE

__all__ = ["PRESETS", "AutoDecoder", "PointCloudVAE", "Preset", "latent_flow", "preset"]
