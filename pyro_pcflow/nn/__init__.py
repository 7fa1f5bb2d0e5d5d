"""Networks: conditioners of the coupling layers, and encoders of clouds."""

from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners, fourier_features
from pyro_pcflow.nn.encoder import CloudEncoder

__all__ = ["CloudEncoder", "Conditioner", "SeparateConditioners", "fourier_features"]
