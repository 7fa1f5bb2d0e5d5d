"""The fast ways to run a stack of couplings, each equal to the plain one."""

from pyro_pcflow.kernels.dispatch import Availability, available, set_backend

__all__ = ["Availability", "available", "set_backend"]
