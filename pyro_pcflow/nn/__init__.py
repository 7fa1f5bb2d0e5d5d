"""Conditioner networks of the coupling layers."""

from pyro_pcflow.nn.conditioner import Conditioner, fourier_features

__all__ = ["Conditioner", "fourier_features"]
