"""Fused kernels for stacks of couplings, each equal to the stack layer by layer; the package is optional."""

from pyro_pcflow.kernels.dispatch import Availability, available, set_backend

__all__ = ["Availability", "available", "set_backend"]
