"""Names of the backends that a stack of couplings may ask for."""

from __future__ import annotations

__all__ = ["BACKENDS", "HasBackend", "check_backend"]

BACKENDS = ("auto", "plain", "tiled", "fused", "triton")


class HasBackend:
    """A base of modules that a kernel may run, whose `backend` is set by `pyro_pcflow.kernels.set_backend`."""

    backend = "auto"


def check_backend(name: str) -> str:
    """Return the name, or raise a `ValueError` unless it is one of `BACKENDS`."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name
