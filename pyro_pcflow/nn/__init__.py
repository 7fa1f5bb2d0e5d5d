"""Networks: conditioners of the coupling layers, and encoders of clouds."""

from pyro_pcflow.nn.cloud_encoder import CloudEncoder
from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners, fourier_features

__all__ = ["CloudEncoder", "Conditioner", "SeparateConditioners", "fourier_features"]
