"""Networks: conditioners of the coupling layers, and encoders of clouds."""

from pyro_pcflow.nn.cloud_encoder import CloudEncoder
from pyro_pcflow.nn.conditioner import Conditioner, fourier_features

__all__ = ["CloudEncoder", "Conditioner", "fourier_features"]
