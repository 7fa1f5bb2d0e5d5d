"""Networks: conditioners of the coupling layers, and encoders of clouds."""

from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners
from pyro_pcflow.nn.encoder import CloudEncoder
from pyro_pcflow.ops.network import fourier_features

__all__ = ["CloudEncoder", "Conditioner", "SeparateConditioners", "fourier_features"]
