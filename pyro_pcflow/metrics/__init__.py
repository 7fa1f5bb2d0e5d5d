"""Distances between clouds, and matrices of them: torch in, torch out, on any device, without a compiler."""

from .approximate import approximate_emd
from .chamfer import FScore, chamfer, f_score, hausdorff
from .emd import emd
from .entropic import sinkhorn
from .matrices import pairwise

__all__ = ["FScore", "approximate_emd", "chamfer", "emd", "f_score", "hausdorff", "pairwise", "sinkhorn"]
